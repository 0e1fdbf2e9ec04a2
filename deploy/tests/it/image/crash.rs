//! A build that is killed: whatever instant it is, the layout goes on working.

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
};

use super::Place;
use crate::place::eventually;

const NAME: &str = "image::crash::a_build_that_is_killed_leaves_a_layout_that_works";
/// Set where this test is the build that is to be killed.
const CHILD: &str = "MOORLINE_TEST_KILLED_BUILD";
const MODEL_BYTES: usize = 256 << 20;

fn drafts(blobs: &Path) -> Vec<u64> {
    let Ok(entries) = fs_err::read_dir(blobs) else { return Vec::new() };
    let draft = |entry: &fs_err::DirEntry| entry.file_name().to_string_lossy().starts_with(".new-");
    entries.flatten().filter(draft).filter_map(|entry| Some(entry.metadata().ok()?.len())).collect()
}

#[tokio::test]
async fn a_build_that_is_killed_leaves_a_layout_that_works() {
    if let Some(dir) = env::var_os(CHILD) {
        let mut place = Place::with(|config| config.dir = dir.into()).await;
        place.model(&vec![7; MODEL_BYTES]);
        place.build(None).await.unwrap();
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("images");
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", NAME])
        .env(CHILD, &dir)
        .env("TMPDIR", home.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let blobs = dir.join("blobs/sha256");
    eventually("a blob half written", || drafts(&blobs).iter().any(|size| *size > 1 << 20)).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!drafts(&blobs).is_empty());
    let place = Place::with(|config| config.dir = dir).await;
    assert!(drafts(&blobs).is_empty(), "opening clears it away");
    assert!(place.images.list().await.unwrap().is_empty());
    let image = place.build(None).await.unwrap();
    assert_eq!(place.images.list().await.unwrap(), std::slice::from_ref(&image));
    let pruned = place.images.prune(&[image.digest].into()).await.unwrap();
    assert_eq!(pruned.images, 0);
    assert_eq!(place.images.image(&image.digest).await.unwrap(), image);
}
