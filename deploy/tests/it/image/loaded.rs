//! Images in a real Engine: loaded without a registry, and run.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::HashSet,
    env, io,
    process::{Command, Stdio},
};

use moorline_core::Digest;
use moorline_deploy::image::Image;

use super::Place;
use crate::place::{scorer, skip};

/// The Engine's own command line; `None` where there is no Engine for tests.
fn docker() -> Option<impl Fn() -> Command> {
    let Some(host) = env::var_os("MOORLINE_TEST_DOCKER") else {
        skip("MOORLINE_TEST_DOCKER names no Engine");
        return None;
    };
    if Command::new("docker").arg("--version").stdout(Stdio::null()).status().is_err() {
        skip("the command `docker` is not installed");
        return None;
    }
    Some(move || {
        let mut command = Command::new("docker");
        command.arg("--host").arg(&host);
        command
    })
}

async fn load(
    docker: &impl Fn() -> Command,
    place: &Place,
    image: &Image,
    tag: &str,
    without: &HashSet<Digest>,
) -> u64 {
    let mut archive = place.images.docker_archive(image, tag, without).await.unwrap();
    let size = archive.size();
    let mut child = docker().arg("load").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    io::copy(&mut archive, &mut stdin).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
    size
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_loads_and_runs_what_it_was_never_told_of() {
    let Some(docker) = docker() else { return };
    let Some(scorer) = scorer() else { return };
    let mut place = Place::with(|config| {
        config.scorer = scorer;
        config.static_scorer = env::var_os("MOORLINE_TEST_STATIC_SCORER").map(Into::into);
    })
    .await;
    let tag = format!("moorline-test/loaded:{}", std::process::id());
    let first = place.build(None).await.unwrap();
    let whole = load(&docker, &place, &first, &tag, &HashSet::new()).await;
    let run = || {
        let output = docker()
            .args(["run", "--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none"])
            .args([&tag, "--version"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run().contains("moorline-scorer"));
    // What the Engine has is not sent again.
    place.model(b"other weights");
    let second = place.build(None).await.unwrap();
    let has: HashSet<Digest> = first.diff_ids.iter().copied().collect();
    let rest = load(&docker, &place, &second, &tag, &has).await;
    assert!(rest < whole / 100, "{rest} of {whole} bytes");
    assert!(run().contains("moorline-scorer"));
    let inspected =
        docker().args(["inspect", "--format", "{{.Id}} {{.Config.User}}", &tag]).output().unwrap();
    let told = String::from_utf8(inspected.stdout).unwrap();
    assert_eq!(told.trim(), format!("{} 65532:65532", second.config_digest));
    for image in [&tag, &first.config_digest.to_string()] {
        let _ = docker().args(["rmi", "--force", image]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
