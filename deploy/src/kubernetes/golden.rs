//! The objects as they are, for several clusters: what a change of `objects` means is seen in a change of these.

use insta::assert_snapshot;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::{Secret, Service, ServiceAccount},
        networking::v1::{Ingress, NetworkPolicy},
        policy::v1::PodDisruptionBudget,
    },
    serde::{Serialize, de::DeserializeOwned},
};
use moorline_core::{
    Digest, InferenceConfig, ModelImage, ModelType, Placement, Release, ReleaseModel, RequestSettings,
    Resources, Route, Scale, Scheduling, Secret as Hidden, Source, TargetError, Toleration, Variable,
};
use serde_json::Value;

use super::{
    gateway::{GatewayParent, GatewaySettings},
    objects::{Look, objects},
    served::{Kind, Served},
};

fn old() -> Served {
    Served {
        version: "v1.20.2".to_owned(),
        autoscaling: Some("autoscaling/v2beta2"),
        disruption: Some("policy/v1beta1"),
        ..Served::default()
    }
}

fn new() -> Served {
    Served {
        version: "v1.34.0".to_owned(),
        autoscaling: Some("autoscaling/v2"),
        disruption: Some("policy/v1"),
        http_routes: Some("gateway.networking.k8s.io/v1"),
        cpu_metrics: true,
        in_flight_metric: true,
        pod_monitors: true,
        lifecycle_sleep: true,
        image_volumes: true,
    }
}

fn look(served: Served) -> Look {
    Look {
        owner: "home/default/cluster".to_owned(),
        namespace: "ml".to_owned(),
        image_pull_secrets: vec!["registry".to_owned()],
        settle_ms: 3000,
        image_volumes: served.image_volumes,
        served,
    }
}

fn placement() -> Placement {
    let name = |text: &str| text.parse().unwrap();
    Placement {
        id: moorline_core::DeploymentId {
            workspace: name("default"),
            endpoint: name("Iris_2"),
            deployment: name("blue"),
        },
        release: Release {
            format: Release::FORMAT,
            name: name("iris"),
            model: Some(ReleaseModel {
                name: name("iris"),
                version: "7".to_owned(),
                model_type: ModelType::Onnx,
                files: Vec::new(),
            }),
            code: None,
            environment: None,
            environment_variables: [].into(),
            request_settings: RequestSettings {
                request_timeout_ms: Some(90_000),
                max_concurrent_requests_per_instance: std::num::NonZeroUsize::new(4),
                max_queue_wait_ms: None,
            },
            engine: moorline_core::EngineSettings::default(),
            batching: None,
            image: None,
            collection: None,
        },
        source: Source::image(format!("registry.example.org/ml/iris@{}", Digest::of(b"image"))),
        replicas: 1,
        scale: Scale::Fixed { instances: 1 },
        resources: Resources::default(),
        scheduling: Scheduling::default(),
        liveness: moorline_core::Probe::default(),
        readiness: moorline_core::Probe::default(),
        variables: [("COLOUR".to_owned(), Variable::Plain("te$al".to_owned()))].into(),
        own_server: None,
        machine_devices: None,
        golden: None,
    }
}

fn scaled() -> Placement {
    let mut placement = placement();
    placement.scale = Scale::TargetUtilization {
        min_instances: 1,
        max_instances: 5,
        target_utilization_percentage: 70,
        polling_interval: 10,
        scale_down_delay: 300,
    };
    placement.resources = Resources { cpu_millis: Some(1500), memory_bytes: Some(2 << 30) };
    placement.scheduling = Scheduling {
        requests: Resources { cpu_millis: Some(250), memory_bytes: Some(1 << 30) },
        devices: [("nvidia.com/gpu".to_owned(), 1)].into(),
        node_selector: [("pool".to_owned(), "gpu".to_owned())].into(),
        tolerations: vec![Toleration {
            key: Some("gpu".to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoSchedule".to_owned()),
            value: None,
        }],
    };
    let secret = Variable::Secret {
        reference: "token".to_owned(),
        version: 3,
        value: Hidden::new("correct horse".to_owned()),
    };
    placement.variables.insert("TOKEN".to_owned(), secret);
    placement
}

fn foreign() -> Placement {
    let route = |port, path: &str| Route { port, path: path.to_owned() };
    Placement {
        own_server: Some(InferenceConfig {
            liveness_route: route(8501, "/live"),
            readiness_route: route(8501, "/ready"),
            scoring_route: route(8500, "/v1/models/iris:predict"),
        }),
        replicas: 2,
        scale: Scale::Fixed { instances: 2 },
        ..placement()
    }
}

/// As `placement`, with the model in an image of its own.
fn apart(by: Placement, place: &str) -> Placement {
    let Source::Image { reference, .. } = by.source.clone() else { unreachable!("it is an image") };
    let model = ModelImage {
        reference: format!("registry.example.org/ml/iris@{}", Digest::of(b"model")),
        place: place.to_owned(),
        bytes: 3 << 30,
    };
    Placement { source: Source::Image { reference, model: Some(model) }, ..by }
}

fn printed(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("{object:#}")).collect::<Vec<_>>().join("\n")
}

#[test]
fn one_pod_on_an_old_cluster() {
    assert_snapshot!(printed(&objects(&look(old()), &placement(), false)));
}

#[test]
fn scaled_pods_with_devices_on_a_new_cluster() {
    assert_snapshot!(printed(&objects(&look(new()), &scaled(), false)));
}

#[test]
fn a_server_of_somebody_elses() {
    assert_snapshot!(printed(&objects(&look(new()), &foreign(), false)));
}

#[test]
fn a_model_that_is_copied_into_a_volume() {
    let placed = apart(scaled(), "/opt/moorline/release/model");
    let all = objects(&look(old()), &placed, false);
    let deployment = all.iter().find(|object| Kind::of(object) == Some(Kind::Deployment)).unwrap();
    assert_snapshot!(format!("{:#}", deployment["spec"]["template"]["spec"]));
}

#[test]
fn a_model_whose_volume_is_its_image() {
    let placed = apart(foreign(), "/var/azureml-app/azureml-models/iris/7");
    let all = objects(&look(new()), &placed, false);
    let deployment = all.iter().find(|object| Kind::of(object) == Some(Kind::Deployment)).unwrap();
    assert_snapshot!(format!("{:#}", deployment["spec"]["template"]["spec"]));
}

#[test]
fn what_scales_is_the_newest_that_is_served() {
    let scaler = |served: Served| {
        let all = objects(&look(served), &scaled(), false);
        all.into_iter().find(|object| Kind::of(object) == Some(Kind::HorizontalPodAutoscaler))
    };
    assert_eq!(scaler(old()), None, "nothing measures what it would scale by");
    let by_cpu = scaler(Served { cpu_metrics: true, ..old() }).unwrap();
    assert_eq!(by_cpu["apiVersion"], "autoscaling/v2beta2");
    assert_eq!(by_cpu["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
    let first = Served { cpu_metrics: true, autoscaling: Some("autoscaling/v1"), ..old() };
    assert_eq!(scaler(first).unwrap()["spec"]["targetCPUUtilizationPercentage"], 70);
    // 70 % of 4 requests at one time.
    let by_requests = scaler(new()).unwrap();
    assert_eq!(by_requests["spec"]["metrics"][0]["pods"]["target"]["averageValue"], "2800m");
}

fn gateway() -> GatewaySettings {
    GatewaySettings {
        name: "moorline-gateway".to_owned(),
        replicas: 2,
        host: Some("models.example.org".to_owned()),
        ingress_class: Some("nginx".to_owned()),
        tls_secret: Some("models-tls".to_owned()),
        parent: Some(GatewayParent {
            name: "public".to_owned(),
            namespace: Some("infra".to_owned()),
            section: Some("https".to_owned()),
        }),
        variables: [("MOORLINE_ACCESS_LOG".to_owned(), "-".to_owned())].into(),
    }
}

fn gateway_objects(served: Served, settings: &GatewaySettings) -> Result<Vec<Value>, TargetError> {
    super::gateway::objects(&look(served), settings, "registry.example.org/ml/gateway:1", b"[]")
}

#[test]
fn a_gateway_behind_a_gateway_of_the_gateway_api() {
    assert_snapshot!(printed(&gateway_objects(new(), &gateway()).unwrap()));
}

#[test]
fn a_gateway_behind_an_ingress_on_an_old_cluster() {
    let settings = GatewaySettings { parent: None, ..gateway() };
    assert_snapshot!(printed(&gateway_objects(old(), &settings).unwrap()));
    let inside = GatewaySettings { host: None, ..settings };
    let kinds: Vec<_> = gateway_objects(old(), &inside).unwrap().iter().filter_map(Kind::of).collect();
    assert!(!kinds.contains(&Kind::Ingress) && kinds.contains(&Kind::Service), "{kinds:?}");
    let refused = gateway_objects(old(), &gateway()).unwrap_err();
    assert!(refused.message.contains("has no HTTPRoute"), "{refused}");
}

/// Every field is one of the official schema's, and of its type: what a typed object keeps of it is all of it.
#[test]
fn every_field_is_in_the_newest_schema() {
    fn kept<T: Serialize + DeserializeOwned>(object: &Value) {
        let typed: T =
            serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
        let again = serde_json::to_value(typed).unwrap();
        assert_eq!(super::drift::all(object, &again), [], "of {}", object["kind"]);
    }
    let model = "/opt/moorline/release/model";
    let deployments = [placement(), scaled(), foreign(), apart(placement(), model)];
    let copied = objects(&Look { image_volumes: false, ..look(new()) }, &apart(placement(), model), true);
    let deployments = deployments.iter().flat_map(|placement| objects(&look(new()), placement, true));
    let deployments = deployments.chain(copied);
    let ingress = GatewaySettings { parent: None, ..gateway() };
    let gateways = [gateway(), ingress];
    let gateways = gateways.iter().flat_map(|settings| gateway_objects(new(), settings).unwrap());
    {
        for object in deployments.chain(gateways) {
            match Kind::of(&object).unwrap() {
                Kind::ServiceAccount => kept::<ServiceAccount>(&object),
                Kind::Secret => kept::<Secret>(&object),
                Kind::NetworkPolicy => kept::<NetworkPolicy>(&object),
                Kind::Service => kept::<Service>(&object),
                Kind::PodDisruptionBudget => kept::<PodDisruptionBudget>(&object),
                Kind::Deployment => kept::<Deployment>(&object),
                Kind::HorizontalPodAutoscaler => kept::<HorizontalPodAutoscaler>(&object),
                Kind::Ingress => kept::<Ingress>(&object),
                // Of others, whose schemas come with them.
                Kind::PodMonitor | Kind::HttpRoute => {}
            }
        }
    }
}
