//! The cluster that tests of the Kubernetes target run on, and the images that its nodes pull.

use std::{env, path::PathBuf, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use moorline_core::Source;
use moorline_deploy::{
    Progress,
    environment::{EnvironmentConfig, Environments},
    image::{Base, Compression, Image, ImageConfig, ImageRequest, Images},
    kubernetes::{ClusterAddress, KubernetesConfig},
    registry::{Reference, Registries, RegistryConfig},
};
use moorline_testkit::TestRelease;
use serde_json::json;
use tempfile::TempDir;

use crate::place;

/// A cluster whose nodes really run pods, and a registry that they and we reach by one name.
#[derive(Debug)]
pub(crate) struct Cluster {
    kubeconfig: PathBuf,
    registry: String,
}

impl Cluster {
    /// The one that the environment names. Says that a test is skipped where it names none.
    pub(crate) fn given() -> Option<Self> {
        let named = |name| env::var_os(name).and_then(|value| value.into_string().ok());
        let (Some(kubeconfig), Some(registry)) =
            (named("MOORLINE_TEST_KUBECONFIG"), named("MOORLINE_TEST_CLUSTER_REGISTRY"))
        else {
            place::lack(
                "kubernetes",
                "no Kubernetes: MOORLINE_TEST_KUBECONFIG names no cluster, or MOORLINE_TEST_CLUSTER_REGISTRY no registry that it pulls from",
            );
            return None;
        };
        Some(Self { kubeconfig: kubeconfig.into(), registry })
    }

    pub(crate) async fn client(&self) -> Client {
        let read = Kubeconfig::read_from(&self.kubeconfig).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        Client::try_from(config.expect("a kubeconfig with a cluster")).expect("a client")
    }

    /// A namespace of this test's own, in which only what is restricted may run.
    pub(crate) async fn namespace(&self, what: &str) -> String {
        let name = format!("moorline-{what}-{}", std::process::id());
        let namespace = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "pod-security.kubernetes.io/enforce": "restricted" } },
        }));
        let all: Api<Namespace> = Api::all(self.client().await);
        all.create(&PostParams::default(), &namespace.expect("a namespace"))
            .await
            .expect("a namespace is made");
        name
    }

    pub(crate) async fn forget(&self, namespace: &str) {
        let all: Api<Namespace> = Api::all(self.client().await);
        all.delete(namespace, &DeleteParams::default()).await.expect("a namespace can be deleted");
    }

    pub(crate) fn config(&self, namespace: &str) -> KubernetesConfig {
        let cluster = ClusterAddress {
            kubeconfig: Some(self.kubeconfig.clone()),
            context: None,
            namespace: Some(namespace.to_owned()),
        };
        KubernetesConfig {
            settle: Duration::from_millis(500),
            ..KubernetesConfig::new(format!("test/{namespace}"), cluster)
        }
    }

    /// Makes the image of a release and pushes it to where the cluster pulls from.
    pub(crate) async fn supply(
        &self,
        release: TestRelease,
        images: &Images,
        registries: &Registries,
    ) -> TestRelease {
        let image = image_of(&release, images).await;
        let to: Reference = format!("{}/test/conformance:{}", self.registry, &image.digest.hex()[..12])
            .parse()
            .expect("a reference");
        let pushed = registries.push(images.layout(), &image.descriptor, &to, &[], &Progress::none()).await;
        pushed.expect("the registry takes it");
        let reference = format!("{}/test/conformance@{}", self.registry, image.digest);
        release.with_source(Source::image(reference))
    }
}

/// What makes images, in a folder that goes away with it. Says that a test is skipped where no scorer was built.
pub(crate) async fn images() -> Option<(TempDir, Images, Registries)> {
    let scorer = place::scorer()?;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let home = dir.path();
    let registries = Registries::new(RegistryConfig::default()).expect("no registry is configured");
    let environments =
        EnvironmentConfig::new(home.join("environments"), home.join("tools"), place::environment());
    let images = ImageConfig {
        dir: home.join("images"),
        scorer,
        static_scorer: env::var_os("MOORLINE_TEST_STATIC_SCORER").map(Into::into),
        onnxruntime: None,
        other_platforms: [].into(),
        registries: registries.clone(),
        mirrored: Vec::new(),
        environments: Environments::open(environments).expect("a folder can be opened"),
    };
    let images = Images::open(images).await.expect("a folder can be opened");
    Some((dir, images, registries))
}

pub(crate) async fn image_of(release: &TestRelease, images: &Images) -> Image {
    let request = ImageRequest {
        release: &release.release,
        files: release.path(),
        environment: None,
        base: Some(Base::Scorer),
        compression: Compression::None,
        name: "test/conformance",
        bitstream: None,
        model_mount_path: None,
        model_apart: false,
    };
    Box::pin(images.build(request, &Progress::none())).await.expect("an image can be made")
}
