//! A secret reaches the replica's environment and nothing else; nothing else reaches its environment either.

use moorline_core::{Observation, Phase, Secret, Target, Variable};
use moorline_testkit::{TestRelease, deployment, observed};

use crate::place::{Home, scorers};

const SECRET: &str = "tidewater-ninety-one";

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_the_environment_and_nowhere_else() {
    let Some(home) = Home::open(|config| {
        config.environment.insert("OF_THE_SERVER".to_owned(), "none-of-its-business".to_owned());
    })
    .await
    else {
        return;
    };
    let (release, id) = (TestRelease::double(1), deployment("secretive", "blue"));
    let mut placement = release.placement(&id, 1);
    let secret =
        Variable::Secret { reference: "token".to_owned(), version: 7, value: Secret::new(SECRET.to_owned()) };
    placement.variables.insert("TOKEN".to_owned(), secret);
    home.target.apply(&placement).await.unwrap();
    let ready = |seen: &Observation| seen.phase == Phase::Ready;
    let seen = observed(&*home.target, &id, "a ready replica", ready).await;

    let (pid, command_line) = scorers(home.folder.path()).remove(0);
    let environment = fs_err::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains(&format!("TOKEN={SECRET}\0")));
    assert!(
        !environment.contains("OF_THE_SERVER"),
        "a replica gets what it needs of the server's environment"
    );
    assert!(!command_line.contains(SECRET));
    for (path, content) in home.files() {
        assert!(!String::from_utf8_lossy(&content).contains(SECRET), "{} tells it", path.display());
    }
    let shown = format!("{:?} {seen:?} {:?}", home.target, home.target.render(&placement).unwrap());
    assert!(!shown.contains(SECRET) && shown.contains("secret:token"), "{shown}");

    // The manifest is what runs.
    let manifest = home.target.render(&placement).unwrap().documents.remove(0);
    let replica = &seen.replicas[0].id;
    let rendered: Vec<String> = std::iter::once(&manifest["program"])
        .chain(manifest["arguments"].as_array().unwrap())
        .map(|argument| argument.as_str().unwrap().replace("/REPLICA/", &format!("/{replica}/")))
        .collect();
    assert_eq!(command_line.trim_end_matches('\0').split('\0').collect::<Vec<_>>(), rendered);
    for (name, value) in manifest["environment"].as_object().unwrap() {
        let value = value.as_str().unwrap();
        if !value.starts_with("secret:") && !value.starts_with("HOME/") {
            assert!(environment.contains(&format!("{name}={value}\0")), "{name}");
        }
    }
    let variables = environment.trim_end_matches('\0').split('\0').count();
    assert_eq!(variables, manifest["environment"].as_object().unwrap().len());
    home.close().await;
}
