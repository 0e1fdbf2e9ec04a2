//! The targets obey the laws of their seam.

use std::{env, sync::Arc};

use moorline_core::{Source, Target, TargetKind};
use moorline_deploy::{
    Progress,
    container::{ContainerConfig, ContainerTarget},
    environment::{EnvironmentConfig, Environments},
    image::{Base, Compression, ImageConfig, ImageRequest, Images},
    registry::{Registries, RegistryConfig},
};
use moorline_testkit::{TestRelease, target_conformance};

use crate::place::{self, Home};

#[tokio::test(flavor = "multi_thread")]
async fn the_local_target_obeys_the_laws() {
    let Some(home) = Home::open(|_| {}).await else { return };
    let target = Arc::clone(&home.target) as Arc<dyn Target>;
    target_conformance(TargetKind::Local, async || Arc::clone(&target), async |release| release).await;
    home.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_container_target_obeys_the_laws() {
    on_engine("MOORLINE_TEST_DOCKER").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_container_target_obeys_the_laws_on_podman() {
    on_engine("MOORLINE_TEST_PODMAN").await;
}

/// Containers of the fixture's releases, which our own scorer serves, on the Engine that a variable names.
async fn on_engine(variable: &str) {
    let (Some(host), Some(scorer)) = (env::var_os(variable), place::scorer()) else {
        return place::skip(&format!("{variable} names no Engine, such as unix:///run/docker.sock"));
    };
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
    let host = host.to_str().and_then(|host| host.parse().ok()).expect("an Engine's address");
    let owner = format!("conformance-{}", std::process::id());
    let config = ContainerConfig::new(owner, host, images.clone(), registries);
    let target = ContainerTarget::open(config, Arc::new(|_| {})).await.expect("the Engine answers");
    let own = Arc::clone(&target) as Arc<dyn Target>;
    let place = async |release: TestRelease| {
        let request = ImageRequest {
            release: &release.release,
            files: release.path(),
            environment: None,
            base: Some(Base::Scorer),
            compression: Compression::None,
            name: "test/conformance",
            model_mount_path: None,
        };
        let image = images.build(request, &Progress::none()).await.expect("an image can be made");
        release.with_source(Source::Image { reference: image.reference })
    };
    target_conformance(TargetKind::Container, async || Arc::clone(&own), place).await;
    target.shutdown(false).await;
}
