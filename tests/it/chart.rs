//! The Helm chart: what it renders, what its schema refuses, and whether an API server takes it.

use std::{collections::BTreeSet, env, path::PathBuf, process::Command};

use moorline_tests::{GivenCluster, Said, Workspace, own_folder, skip};
use serde_json::Value;
use tempfile::TempDir;

use crate::leader::{Candidate, POD};

/// Settings of `tests/scenarios/chart`.
const SCENARIOS: [&str; 3] = ["one", "several", "everything"];
/// The kinds that a cluster has only where somebody installed them.
const CUSTOM: [&str; 1] = ["monitoring.coreos.com/v1/PodMonitor"];

pub(crate) struct Helm(PathBuf);

impl Helm {
    pub(crate) fn given() -> Option<Self> {
        let program = env::var_os("MOORLINE_TEST_HELM").map(PathBuf::from);
        if program.is_none() {
            skip(
                "no helm; `cargo xtask test` installs it on Linux with x86-64, or takes the one on the PATH",
            );
        }
        program.map(Self)
    }

    /// `helm template ml CHART`, in folders of its own.
    pub(crate) fn template(&self, arguments: &[&str]) -> Said {
        let chart = own_folder().parent().unwrap().join("deploy/helm/moorline");
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(&self.0);
        command.args(["template", "ml"]).arg(chart).args(arguments);
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(variable, folder.path());
        }
        let output = command.env_remove("KUBECONFIG").output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

pub(crate) fn scenario(name: &str) -> String {
    let path = own_folder().join(format!("scenarios/chart/{name}.yml"));
    path.to_str().unwrap().to_owned()
}

#[test]
fn what_is_rendered_is_what_was_looked_at() {
    let Some(helm) = Helm::given() else { return };
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../golden/chart");
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| {
        for name in SCENARIOS {
            let values = scenario(name);
            let mut arguments =
                vec!["--namespace", "moorline", "--kube-version", "1.32.0", "--values", values.as_str()];
            arguments.extend(CUSTOM.iter().flat_map(|kind| ["--api-versions", kind]));
            let rendered = helm.template(&arguments).ok().stdout;
            insta::assert_snapshot!(name, rendered);
        }
    });
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    let Some(helm) = Helm::given() else { return };
    let one = scenario("one");
    let several = scenario("several");
    let cases: [(&str, &[&str], &str); 14] = [
        (&one, &["replicas=2"], "'/database/existingSecret'"),
        (&one, &["replicas=2"], "'/blobs/s3/bucket'"),
        (&one, &["replicas=2"], "'/keys/existingSecret'"),
        (&several, &["keys.existingSecret="], "'/keys/existingSecret'"),
        (&one, &["replicas=0"], "'/replicas'"),
        (&one, &["ownerToken.existingSecret="], "'/ownerToken/existingSecret'"),
        (&one, &["image.repository="], "'/image/repository'"),
        (&one, &["image.digest=latest"], "'/image/digest'"),
        (&one, &["ownerToken.token=abc"], "additional properties 'token' not allowed"),
        (&one, &["database.url=postgres://u:p@h/d"], "additional properties 'url' not allowed"),
        (&one, &["replica=2"], "additional properties 'replica' not allowed"),
        (&one, &["ingress.enabled=true"], "'/ingress/hosts'"),
        (&one, &["httpRoute.enabled=true"], "'/httpRoute/parentRefs'"),
        (&one, &["podLabels.moorline\\.io/role=leader"], "'moorline.io/role'"),
    ];
    for (values, set, named) in cases {
        let set: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
        let said = helm.template(&[&["--values", values], set.as_slice()].concat());
        assert_eq!(said.code, Some(1), "{set:?}: {said:?}");
        assert!(said.stderr.contains(named), "{set:?}: {}", said.stderr);
        assert!(said.stdout.is_empty(), "{set:?}");
    }
}

#[test]
fn an_api_server_takes_what_is_rendered() {
    let (Some(helm), Some(cluster)) = (Helm::given(), GivenCluster::find()) else { return };
    let namespace = cluster.namespace();
    let version = cluster.kubectl_with(&["version", "--output", "json"], "").ok().json();
    let version = version["serverVersion"]["gitVersion"].as_str().unwrap().to_owned();
    let targets = format!("rbac.targetNamespaces={{{}}}", namespace.name);
    for name in SCENARIOS {
        let values = scenario(name);
        let rendered = helm.template(&[
            "--namespace",
            &namespace.name,
            "--kube-version",
            &version,
            "--values",
            &values,
            "--set",
            &targets,
            // No cluster has it that nobody has prepared.
            "--set",
            "httpRoute.enabled=false",
        ]);
        let taken =
            namespace.kubectl_with(&["apply", "--dry-run=server", "-f", "-"], &rendered.ok().stdout).ok();
        assert!(taken.stdout.contains("deployment.apps/"), "{name}: {}", taken.stdout);
    }
}

#[test]
fn the_charts_rights_are_enough_to_lead() {
    let (Some(helm), Some(cluster)) = (Helm::given(), GivenCluster::find()) else { return };
    let namespace = cluster.namespace();
    let values = scenario("several");
    for template in ["templates/account.yaml", "templates/rbac.yaml"] {
        let rendered =
            helm.template(&["--namespace", &namespace.name, "--values", &values, "--show-only", template]);
        namespace.kubectl_with(&["apply", "-f", "-"], &rendered.ok().stdout).ok();
    }
    namespace.kubectl_with(&["apply", "-f", "-"], POD).ok();

    let folder = tempfile::tempdir().unwrap();
    let account = format!("system:serviceaccount:{}:ml-moorline", namespace.name);
    let kubeconfig = impersonating(&cluster, &account, &folder);
    let election = format!("{}/ml-moorline", namespace.name);
    let leader = Candidate::start(&kubeconfig, &election, folder.path(), Some("server-0"));
    leader.until("/ready", 200);
    let labels = namespace.get("pod", "server-0").unwrap()["metadata"]["labels"].clone();
    assert_eq!(labels["moorline.io/role"], "leader");
    // And not for more: another lease than the chart's is none of its business.
    let may = |verb: &str, what: &str| {
        namespace.kubectl_with(&["auth", "can-i", verb, what, "--as", &account], "").stdout.trim() == "yes"
    };
    assert!(may("update", "leases.coordination.k8s.io/ml-moorline"));
    for (verb, what) in [
        ("update", "leases.coordination.k8s.io/other"),
        ("delete", "leases.coordination.k8s.io/ml-moorline"),
        ("create", "pods"),
        ("create", "roles.rbac.authorization.k8s.io"),
        ("list", "nodes"),
    ] {
        assert!(!may(verb, what), "{verb} {what}");
    }
}

/// The cluster's kubeconfig, as somebody else.
pub(crate) fn impersonating(cluster: &GivenCluster, user: &str, folder: &TempDir) -> PathBuf {
    let raw = cluster.kubectl_with(&["config", "view", "--raw", "--flatten", "--output", "json"], "").ok();
    let mut settings = raw.json();
    for entry in settings["users"].as_array_mut().unwrap() {
        entry["user"]["as"] = user.into();
    }
    let file = folder.path().join("kubeconfig");
    fs_err::write(&file, settings.to_string()).unwrap();
    file
}

#[test]
fn a_target_is_granted_what_the_command_line_prints() {
    let (Some(helm), Some(cluster)) = (Helm::given(), GivenCluster::find()) else { return };
    let namespace = cluster.namespace();
    let values = scenario("one");
    let chart = helm.template(&[
        "--namespace",
        &namespace.name,
        "--values",
        &values,
        "--show-only",
        "templates/rbac.yaml",
    ]);
    let workspace = Workspace::down();
    let printed = workspace.moorline(&["kubernetes", "rbac", "--namespace", &namespace.name]);
    let granted = |objects: Said| {
        let read = namespace.kubectl_with(
            &["apply", "--dry-run=client", "--output", "json", "-f", "-"],
            &objects.ok().stdout,
        );
        let read = read.ok().json();
        let objects = read["items"].as_array().unwrap().iter();
        let rules = objects.filter_map(|object| object["rules"].as_array()).flatten();
        let texts = |list: &Value| -> Vec<String> { serde_json::from_value(list.clone()).unwrap() };
        let mut granted = BTreeSet::new();
        for rule in rules {
            for (group, resource) in texts(&rule["apiGroups"]).iter().flat_map(|group| {
                texts(&rule["resources"]).into_iter().map(move |resource| (group.clone(), resource))
            }) {
                granted.extend(texts(&rule["verbs"]).iter().map(|verb| format!("{verb} {group}/{resource}")));
            }
        }
        granted
    };
    let mut of_command_line = granted(printed);
    // A server without others has no use for leases; several have a Role for them.
    of_command_line.retain(|right| !right.ends_with("coordination.k8s.io/leases"));
    assert_eq!(granted(chart), of_command_line);
}
