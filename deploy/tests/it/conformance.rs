//! The targets obey the laws of their seam.

use std::{env, sync::Arc};

use moorline_core::{Source, Target, TargetKind};
use moorline_deploy::{
    container::{ContainerConfig, ContainerTarget},
    kubernetes::KubernetesTarget,
};
use moorline_testkit::{TestRelease, target_conformance};

use crate::{
    cluster::{Cluster, image_of, images},
    place::{self, Home},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_local_target_obeys_the_laws() {
    let Some(home) = Home::open(|_| {}).await else { return };
    let target = Arc::clone(&home.target) as Arc<dyn Target>;
    let laws = target_conformance(TargetKind::Local, async || Arc::clone(&target), async |release| release);
    Box::pin(laws).await;
    home.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_container_target_obeys_the_laws() {
    Box::pin(on_engine("MOORLINE_TEST_DOCKER")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_container_target_obeys_the_laws_on_podman() {
    Box::pin(on_engine("MOORLINE_TEST_PODMAN")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubernetes_target_obeys_the_laws() {
    let Some(cluster) = Cluster::given() else { return };
    let Some((home, images, registries)) = images().await else { return };
    let namespace = cluster.namespace("laws").await;
    let environment = place::environment();
    let target = KubernetesTarget::open(cluster.config(&namespace), &environment, Arc::new(|_| {}));
    let target = target.await.expect("the cluster answers");
    let own = Arc::clone(&target) as Arc<dyn Target>;
    let place = async |release: TestRelease| cluster.supply(release, &images, &registries).await;
    Box::pin(target_conformance(TargetKind::Kubernetes, async || Arc::clone(&own), place)).await;
    target.shutdown();
    cluster.forget(&namespace).await;
    drop(home);
}

/// Containers of the fixture's releases, which our own scorer serves, on the Engine that a variable names.
async fn on_engine(variable: &str) {
    let Some(host) = env::var_os(variable) else {
        return place::skip(&format!("{variable} names no Engine, such as unix:///run/docker.sock"));
    };
    let Some((_home, images, registries)) = images().await else { return };
    let host = host.to_str().and_then(|host| host.parse().ok()).expect("an Engine's address");
    let owner = format!("conformance-{}", std::process::id());
    let config = ContainerConfig::new(owner, host, images.clone(), registries);
    let target = ContainerTarget::open(config, Arc::new(|_| {})).await.expect("the Engine answers");
    let own = Arc::clone(&target) as Arc<dyn Target>;
    let place = async |release: TestRelease| {
        let image = image_of(&release, &images).await;
        release.with_source(Source::image(image.reference))
    };
    Box::pin(target_conformance(TargetKind::Container, async || Arc::clone(&own), place)).await;
    target.shutdown(false).await;
}
