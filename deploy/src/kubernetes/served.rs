//! What a cluster serves. Kinds come and go with versions and with what was installed: what is used is looked up, never
//! assumed, and the newest served version of a kind is the one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup;
use kube::{Client, core::ApiResource};

use super::error::ClusterError;

/// The custom metric that a HorizontalPodAutoscaler can scale by, where an adapter offers it for pods.
pub(super) const IN_FLIGHT: &str = "moorline_requests_in_flight";
const GATEWAY_API: &str = "gateway.networking.k8s.io";
const CUSTOM_METRICS: &str = "custom.metrics.k8s.io";

/// What of a cluster matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// As the API server says it: `v1.32.1`.
    pub version: String,
    /// `autoscaling/v2`, `autoscaling/v2beta2` or `autoscaling/v1`.
    pub(super) autoscaling: Option<&'static str>,
    /// `policy/v1` or `policy/v1beta1`.
    pub(super) disruption: Option<&'static str>,
    /// Without a metrics server a HorizontalPodAutoscaler by CPU never scales.
    pub(super) cpu_metrics: bool,
    /// An adapter offers [`IN_FLIGHT`].
    pub(super) in_flight_metric: bool,
    /// The Gateway API's, where it is installed.
    pub(super) http_routes: Option<&'static str>,
    /// Prometheus' operator.
    pub(super) pod_monitors: bool,
    /// A container may be told to sleep before it is told to end.
    pub(super) lifecycle_sleep: bool,
    /// A volume may be an image.
    pub(super) image_volumes: bool,
}

/// The kinds of objects that a deployment is made of, in the order in which they are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    ServiceAccount,
    Secret,
    NetworkPolicy,
    Service,
    PodDisruptionBudget,
    PodMonitor,
    /// After everything that its pods need.
    Deployment,
    /// After what it scales.
    HorizontalPodAutoscaler,
    /// Of a gateway alone.
    Ingress,
    /// Of a gateway alone.
    HttpRoute,
}

impl Kind {
    /// Those of deployments.
    pub(super) const OF_DEPLOYMENTS: [Self; 8] = [
        Self::ServiceAccount,
        Self::Secret,
        Self::NetworkPolicy,
        Self::Service,
        Self::PodDisruptionBudget,
        Self::PodMonitor,
        Self::Deployment,
        Self::HorizontalPodAutoscaler,
    ];
    /// What leads to a gateway from outside.
    pub(super) const WAYS_IN: [Self; 2] = [Self::Ingress, Self::HttpRoute];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::Secret => "Secret",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Service => "Service",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::PodMonitor => "PodMonitor",
            Self::Deployment => "Deployment",
            Self::HorizontalPodAutoscaler => "HorizontalPodAutoscaler",
            Self::Ingress => "Ingress",
            Self::HttpRoute => "HTTPRoute",
        }
    }

    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::ServiceAccount => "serviceaccounts",
            Self::Secret => "secrets",
            Self::NetworkPolicy => "networkpolicies",
            Self::Service => "services",
            Self::PodDisruptionBudget => "poddisruptionbudgets",
            Self::PodMonitor => "podmonitors",
            Self::Deployment => "deployments",
            Self::HorizontalPodAutoscaler => "horizontalpodautoscalers",
            Self::Ingress => "ingresses",
            Self::HttpRoute => "httproutes",
        }
    }

    pub(super) fn of(object: &serde_json::Value) -> Option<Self> {
        let kind = object["kind"].as_str()?;
        Self::OF_DEPLOYMENTS.into_iter().chain(Self::WAYS_IN).find(|own| own.as_str() == kind)
    }

    /// Where it is found in this cluster; `None` where it is not served.
    pub(super) fn resource(self, served: &Served) -> Option<ApiResource> {
        let api_version = match self {
            Self::ServiceAccount | Self::Secret | Self::Service => "v1",
            Self::NetworkPolicy | Self::Ingress => "networking.k8s.io/v1",
            Self::HttpRoute => served.http_routes?,
            Self::Deployment => "apps/v1",
            Self::PodDisruptionBudget => served.disruption?,
            Self::HorizontalPodAutoscaler => served.autoscaling?,
            Self::PodMonitor => served.pod_monitors.then_some(POD_MONITORS)?,
        };
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Some(ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: api_version.to_owned(),
            kind: self.as_str().to_owned(),
            plural: self.plural().to_owned(),
        })
    }
}

/// Where the operator's PodMonitor is.
pub(super) const POD_MONITORS: &str = "monitoring.coreos.com/v1";

impl Served {
    /// Asks the cluster.
    pub(super) async fn discover(client: &Client) -> Result<Self, ClusterError> {
        let of = |what: &str, error| ClusterError::of(what, error);
        let version = client.apiserver_version().await;
        let version = version.map_err(|error| of("could not ask the cluster for its version", error))?;
        let groups = client.list_api_groups().await;
        let groups = groups.map_err(|error| of("could not ask the cluster what it serves", error))?.groups;
        // A version of `1.27+` is one of a provider's.
        let number = |text: &str| text.trim_end_matches('+').parse().unwrap_or_default();
        let release: (u32, u32) = (number(&version.major), number(&version.minor));
        let mut served = Self {
            version: version.git_version,
            autoscaling: newest(
                &groups,
                "autoscaling",
                &["autoscaling/v2", "autoscaling/v2beta2", "autoscaling/v1"],
            ),
            disruption: newest(&groups, "policy", &["policy/v1", "policy/v1beta1"]),
            cpu_metrics: groups.iter().any(|group| group.name == "metrics.k8s.io"),
            lifecycle_sleep: release >= (1, 30),
            // Where it is on without being asked for, with the folder of an image as a volume.
            image_volumes: release >= (1, 35),
            ..Self::default()
        };
        let gateway_api = newest(
            &groups,
            GATEWAY_API,
            &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"],
        );
        if let Some(version) = gateway_api
            && has_resource(client, &groups, version, "httproutes").await
        {
            served.http_routes = Some(version);
        }
        served.pod_monitors = has_resource(client, &groups, POD_MONITORS, "podmonitors").await;
        let custom = groups.iter().find(|group| group.name == CUSTOM_METRICS);
        let custom = custom.and_then(|group| group.preferred_version.as_ref());
        if let Some(version) = custom {
            let metric = format!("pods/{IN_FLIGHT}");
            served.in_flight_metric = has_resource(client, &groups, &version.group_version, &metric).await;
        }
        Ok(served)
    }
}

fn newest(groups: &[APIGroup], group: &str, wanted: &[&'static str]) -> Option<&'static str> {
    let group = groups.iter().find(|own| own.name == group)?;
    let serves = |wanted: &&&str| group.versions.iter().any(|version| version.group_version == **wanted);
    wanted.iter().find(serves).copied()
}

/// Whether a group that need not be there has a resource. One that does not answer, as an adapter's may, has none.
async fn has_resource(client: &Client, groups: &[APIGroup], group_version: &str, resource: &str) -> bool {
    let (name, _) = group_version.split_once('/').unwrap_or((group_version, ""));
    if !groups.iter().any(|group| group.name == name) {
        return false;
    }
    match client.list_api_group_resources(group_version).await {
        Ok(list) => list.resources.iter().any(|own| own.name == resource),
        Err(error) => {
            tracing::warn!(group_version, %error, "a group of the cluster does not say what it has, and is not used");
            false
        }
    }
}
