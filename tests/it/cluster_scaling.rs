//! Scaling by the cluster itself: a HorizontalPodAutoscaler that is told of requests at one time by a real adapter of
//! custom metrics, which reads them from the pods.

use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, UdpSocket},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use moorline_tests::{
    BODY, Clustered, Connection, GivenCluster, Namespace, Workspace, documents::onnx_deployment, eventually,
    onnx, own_folder,
};
use serde_json::json;
use tempfile::TempDir;

/// The autoscaler looks each few seconds, and pods have to start.
const PATIENCE: Duration = Duration::from_mins(3);
const SERVICE: &str = "v1beta1.custom.metrics.k8s.io";
const METRICS: &str = "/apis/custom.metrics.k8s.io/v1beta1";
const CLIENTS: usize = 10;

/// The adapter, as the cluster finds it: by a Service that leads to this machine.
struct Adapter {
    child: Child,
    namespace: Namespace,
    _certificate: TempDir,
}

impl Adapter {
    fn start(cluster: &GivenCluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "1", "-subj", "/CN=adapter"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let address = own_address(cluster);
        let mut child = Command::new("python3")
            .args(["-B", "-u"])
            .arg(own_folder().join("clients/pod_metrics.py"))
            .arg(&address)
            .args([&certificate, &key])
            .env("KUBECONFIG", &cluster.kubeconfig)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let port: u16 = port.trim().parse().unwrap();
        let namespace = cluster.namespace();
        let own = Self { child, namespace, _certificate: folder };
        let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": "adapter" },
                "spec": { "ports": [{ "port": 443, "targetPort": port, "protocol": "TCP" }] },
            },
            {
                "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": "adapter" },
                "subsets": [{ "addresses": [{ "ip": address }], "ports": [{ "port": port, "protocol": "TCP" }] }],
            },
        ]});
        own.namespace.kubectl_with(&["apply", "-f", "-"], &objects.to_string()).ok();
        let service = json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": { "name": SERVICE },
            "spec": {
                "group": "custom.metrics.k8s.io", "version": "v1beta1",
                "groupPriorityMinimum": 100, "versionPriority": 100, "insecureSkipTLSVerify": true,
                "service": { "name": "adapter", "namespace": own.namespace.name, "port": 443 },
            },
        });
        cluster.kubectl_with(&["apply", "-f", "-"], &service.to_string()).ok();
        let answers = || cluster.kubectl_with(&["get", "--raw", METRICS], "").code == Some(0);
        assert!(eventually(PATIENCE, answers), "the cluster does not reach the adapter");
        own
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        // First: no namespace can be taken away while a group of the cluster does not answer.
        self.namespace.cluster.kubectl_with(&["delete", "apiservice", SERVICE], "");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address by which the cluster reaches this machine: the one that reaches its nodes.
fn own_address(cluster: &GivenCluster) -> String {
    let path = "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
    let node: IpAddr = cluster.kubectl(&["get", "nodes", "-o", path]).parse().expect("it is an address");
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect((node, 443)).unwrap();
    socket.local_addr().unwrap().ip().to_string()
}

#[test]
fn a_cluster_scales_by_requests_at_one_time() {
    let Some(cluster) = GivenCluster::find() else { return };
    let _adapter = Adapter::start(&cluster);
    let clustered = Clustered::on(Workspace::down(), cluster.namespace(), "");
    let namespace = &clustered.namespace;
    clustered.workspace.write("model.onnx", onnx::linear_model());
    // A batch waits for longer than a request takes, so that requests are there at one time.
    let scale = "scale_settings: {type: target_utilization, min_instances: 1, max_instances: 3, target_utilization_percentage: 50}\n\
                 request_settings: {max_concurrent_requests_per_instance: 4, request_timeout_ms: 20000, max_queue_wait_ms: 20000}\n\
                 properties: {moorline.scale_down_delay: '1', moorline.max_batch_size: '64', moorline.max_batch_delay_us: '400000'}\n";
    let document = onnx_deployment("blue", "busy", "model.onnx").replace("instance_count: 1\n", scale);
    let key = clustered.deploy("busy", &document);
    let scaler = namespace.items("horizontalpodautoscalers").remove(0);
    assert_eq!(scaler["spec"]["maxReplicas"], 3, "{scaler}");
    assert_eq!(namespace.pods().len(), 1);

    let stop = AtomicBool::new(false);
    let grown = thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut connection = Connection::open(clustered.workspace.address()).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let reply = connection.send(&Workspace::scoring("busy", &key, BODY)).unwrap();
                    assert_eq!(reply.status, 200, "{}", reply.text());
                }
            });
        }
        let grown = eventually(PATIENCE, || namespace.pods().len() == 3);
        stop.store(true, Ordering::Relaxed);
        grown
    });
    let told = || namespace.kubectl(&["describe", "horizontalpodautoscalers"]);
    assert!(grown, "no pods were added: {}", told());
    assert!(eventually(PATIENCE, || namespace.pods().len() == 1), "no pods were taken away: {}", told());
    // What the cluster decides is left as it is.
    assert_eq!(clustered.score("busy", &key).0, 200);
}
