//! Manifests, valid and broken: what is read is written back, and each mistake is told with its place.

use std::path::{Path, PathBuf};

use moorline_edge::{
    desired::Signer,
    manifest::{Manifest, ManifestError},
};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests").join(folder);
    let entries = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    files.sort();
    assert!(files.len() >= 4);
    files
}

#[test]
fn valid_manifests_are_read_and_written_back() {
    let mut read = Vec::new();
    for path in files("good") {
        let text = fs_err::read_to_string(&path).unwrap();
        let manifest = Manifest::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let written = manifest.to_json();
        assert_eq!(Manifest::parse(&written.to_string()).unwrap(), manifest, "{}", path.display());
        // No text is longer than a twin of Azure's takes.
        for module in written["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"]
            .as_object()
            .unwrap()
            .values()
        {
            for piece in module["settings"].as_object().unwrap().values() {
                assert!(piece.as_str().unwrap().len() <= 512);
            }
        }
        read.push((path.file_stem().unwrap().to_string_lossy().into_owned(), manifest));
    }
    let get = |name: &str| &read.iter().find(|(own, _)| own == name).unwrap().1;
    let full = get("full");
    assert_eq!(full, get("wrapped_in_content"));
    let detector = &full.agent.modules["detector"];
    assert_eq!(detector.create_options["HostConfig"]["Binds"].as_array().unwrap().len(), 60);
    assert_eq!((full.agent.modules["cam"].startup_order, full.hub.routes["alarms"].priority), (1, Some(0)));
    assert_eq!(full.agent.modules["cam"].environment["GREY"], true);
    assert!(!format!("{full:?}").contains("not-a-secret"));
}

#[test]
fn a_manifest_becomes_what_our_devices_run() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests/good/full.json");
    let text = fs_err::read_to_string(path).unwrap();
    let manifest = Manifest::parse(&text).unwrap();
    let applied = manifest.apply().unwrap();
    assert_eq!(applied.desired.containers, manifest.agent.modules);
    assert_eq!(applied.desired.registries, manifest.agent.registries);
    assert_eq!(applied.twins, manifest.twins);
    for (name, route) in &applied.desired.routes {
        let spec = &manifest.hub.routes[name];
        assert_eq!(route.route, spec.route);
        // A route that says nothing has the time of all.
        let expected =
            spec.time_to_live.filter(|seconds| *seconds > 0).map_or(manifest.hub.time_to_live, u64::from);
        assert_eq!(route.time_to_live_secs.map(u64::from), Some(expected), "{name}");
    }
    let notes = applied.notes.join("\n");
    assert!(notes.contains(&manifest.agent.hub.image) && notes.contains("priority of alarms"), "{notes}");
    // What is signed for a device is read there as it was.
    let desired = moorline_edge::desired::Desired { serial: 4, ..applied.desired };
    let signer = Signer::open(&Signer::create().unwrap()).unwrap();
    let document = signer.document("dev1", &desired);
    let read = moorline_edge::desired::Desired::read(&document, "dev1", &[signer.public_key()], 0).unwrap();
    assert_eq!(read, desired);
    for path in files("good") {
        let text = fs_err::read_to_string(&path).unwrap();
        let applied = Manifest::parse(&text).unwrap().apply();
        assert!(applied.is_ok(), "{}: {applied:?}", path.display());
    }

    // What no device of ours does is told, with its place.
    let mut wrong = manifest;
    let cam = wrong.agent.modules.get_mut("cam").unwrap();
    cam.create_options.insert("Nonsense".to_owned(), serde_json::json!(1));
    let template = cam.clone();
    for number in 0..70 {
        wrong.agent.modules.insert(format!("m{number}"), template.clone());
    }
    let error = wrong.apply().unwrap_err().to_string();
    assert!(error.contains("$edgeAgent.modules.cam: createOptions: `Nonsense` is not known"), "{error}");
    assert!(error.contains("a device has at most 64"), "{error}");
}

/// Beside each broken manifest is what is to be said of it.
#[test]
fn every_mistake_of_a_broken_manifest_is_told() {
    let mut wrong = Vec::new();
    for path in files("bad") {
        let text = fs_err::read_to_string(&path).unwrap();
        let error = Manifest::parse(&text).expect_err(&path.display().to_string());
        assert!(matches!(error, ManifestError::Mistakes(_)), "{}", path.display());
        let expected = fs_err::read_to_string(path.with_extension("txt")).unwrap_or_default();
        if format!("{error}\n") != expected {
            wrong.push(format!("{}:\n{error}\n", path.file_name().unwrap_or_default().display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
    assert!(matches!(Manifest::parse("{"), Err(ManifestError::Json(_))));
}
