//! Every way to a container host: TCP with TLS, SSH, Podman, and a registry that lets in whom it knows. What is wrong with a
//! way is told in one line.

use std::{path::Path, time::Duration};

use moorline_tests::{
    Hosted, Said, Workspace,
    containers::{Registry, docker, engine, free_port, inspect, podman, tool},
    dockerd::Dockerd,
    documents::onnx_deployment,
    eventually, onnx,
    sshd::Sshd,
};

/// Longer than any container takes to come or to go.
const PATIENCE: Duration = Duration::from_mins(1);
const PASSWORD: &str = "s3cret-of-the-robot";
/// What `htpasswd -B` makes of it.
const HASHED: &str = "$2y$04$UTA3LwMaNM2X1aXroK1G5uYJUfxFlkzVRfwyDoAe8rmbIbiPxj8qm";

/// A deployment's whole life on a host.
fn lives(hosted: &Hosted, name: &str) {
    let workspace = &hosted.workspace;
    workspace.write("model.onnx", onnx::linear_model());
    let key = hosted.deploy(name, &onnx_deployment("blue", name, "model.onnx"));
    assert_eq!(hosted.score(name, &key).0, 200);
    let before = hosted.containers(name);
    assert_eq!(before.len(), 1, "{before:?}");
    let logs = workspace.moorline(&["online-deployment", "get-logs", "-n", "blue", "-e", name]).ok();
    assert!(logs.stdout.contains("ready"), "{}", logs.stdout);
    let update = ["online-deployment", "update", "-n", "blue", "-e", name, "--set"];
    workspace.moorline(&[&update[..], &["environment_variables.WORD=two"]].concat()).ok();
    assert_eq!(hosted.score(name, &key).0, 200);
    let after = hosted.containers(name);
    assert!(!after.is_empty() && after != before, "{after:?}");
    docker(&hosted.host, &["kill", &after[0]]);
    let healed = || {
        let now = hosted.containers(name);
        now.len() == 1 && now != after && hosted.score(name, &key).0 == 200
    };
    assert!(eventually(PATIENCE, healed), "no container took the killed one's place");
    workspace.moorline(&["online-endpoint", "delete", "-n", name, "-y"]).ok();
    assert!(eventually(PATIENCE, || hosted.containers(name).is_empty()));
    let label = format!("label=io.moorline.endpoint={name}");
    let networks = docker(&hosted.host, &["network", "ls", "--filter", &label, "--quiet"]);
    assert_eq!(networks, "", "the endpoint's network is left");
}

/// What a deployment on a compute of these lines is refused with: one line, and no more.
fn refusal(hosted: &Hosted, compute: &str, lines: &str) -> String {
    hosted.compute(compute, lines);
    let create = ["online-deployment", "create", "-f", "blue.yml", "-n", "green", "--compute", compute];
    let Said { code, stdout, stderr } = hosted.workspace.moorline(&create);
    assert_eq!(code, Some(1), "{stdout}\n{stderr}");
    let said: Vec<&str> =
        stderr.lines().filter(|line| line.contains("Engine") || line.contains("tls")).collect();
    assert_eq!(said.len(), 1, "{stderr}");
    said[0].to_owned()
}

/// Authorities `own` and `other`, a certificate `server` for this machine by the first, and `client` and `stranger` by
/// each of them.
fn certificates(folder: &Path) {
    let at = |name: &str| folder.join(name).display().to_string();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    for name in ["own", "other"] {
        let subject = format!("/CN={name}");
        let (pem, secret) = (at(&format!("{name}.pem")), at(&format!("{name}.key")));
        let request = ["req", "-x509", "-days", "2", "-subj", &subject, "-keyout", &secret, "-out", &pem];
        tool("openssl", &[&request[..], &key].concat());
    }
    for (name, authority, uses) in [
        ("server", "own", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"),
        ("client", "own", "extendedKeyUsage=clientAuth\n"),
        ("stranger", "other", "extendedKeyUsage=clientAuth\n"),
    ] {
        let subject = format!("/CN={name}");
        let (secret, request) = (at(&format!("{name}.key")), at(&format!("{name}.csr")));
        tool(
            "openssl",
            &[&["req", "-subj", &subject, "-keyout", &secret, "-out", &request], &key[..]].concat(),
        );
        fs_err::write(at("uses"), uses).expect("a file can be written");
        let (ca, ca_key) = (at(&format!("{authority}.pem")), at(&format!("{authority}.key")));
        let sign = ["x509", "-req", "-days", "2", "-in", &request, "-CA", &ca, "-CAkey", &ca_key];
        let (uses, pem) = (at("uses"), at(&format!("{name}.pem")));
        tool("openssl", &[&sign[..], &["-CAcreateserial", "-extfile", &uses, "-out", &pem]].concat());
    }
}

#[test]
fn an_engine_behind_tls_is_used_and_knows_its_clients() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    certificates(folder.path());
    let at = |name: &str| folder.path().join(name).display().to_string();
    let host = format!("tcp://127.0.0.1:{}", free_port());
    let (ca, cert, key) = (at("own.pem"), at("server.pem"), at("server.key"));
    let tls = ["--tlsverify", "--tlscacert", &ca, "--tlscert", &cert, "--tlskey", &key];
    let Some(dockerd) = Dockerd::start_with(&[&["--host", &host][..], &tls].concat(), |_| {}) else {
        return;
    };
    let lines = |ca: &str, cert: &str, key: &str| {
        format!("host: {host}\ntls: {{ca: {}, cert: {}, key: {}}}\n", at(ca), at(cert), at(key))
    };
    let right = lines("own.pem", "client.pem", "client.key");
    let hosted = Hosted::reached(Workspace::down(), &right, dockerd.host());
    lives(&hosted, "moored");

    hosted.workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    for (compute, lines, why) in [
        ("wrong-ca", lines("other.pem", "client.pem", "client.key"), "that `tls.ca` does not vouch for"),
        (
            "stranger",
            lines("own.pem", "stranger.pem", "stranger.key"),
            "does not take the certificate `tls.cert`",
        ),
        ("no-cert", lines("own.pem", "none.pem", "client.key"), "`tls.cert` cannot be read"),
        ("no-key", lines("own.pem", "client.pem", "client.pem"), "holds no private key in PEM"),
        ("clear", format!("host: {host}\n"), "wants TLS"),
        ("far", "host: tcp://192.0.2.1:2375\npublish: 192.0.2.1\n".to_owned(), "in the clear"),
        ("nobody", format!("host: tcp://127.0.0.1:{}\n", free_port()), "cannot be reached; is it running?"),
    ] {
        let said = refusal(&hosted, compute, &lines);
        assert!(said.contains(why), "{compute}: {said}");
    }
}

#[test]
fn an_engine_behind_ssh_is_used_by_the_settings_of_ssh() {
    let Some(host) = engine() else { return };
    let Some(sshd) = Sshd::start(&host) else { return };
    let mut workspace = Workspace::down();
    workspace.set_variable("PATH", sshd.path());
    let hosted = Hosted::reached(workspace, &format!("host: {}\n", sshd.host), host);
    lives(&hosted, "towed");

    hosted.workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    let nobody = format!("host: ssh://127.0.0.1:{}\n", free_port());
    let said = refusal(&hosted, "nobody", &nobody);
    assert!(said.contains("ssh says:") && said.contains("Connection refused"), "{said}");
    sshd.forget();
    let said = refusal(&hosted, "unknown", &format!("host: {}\ndescription: once more\n", sshd.host));
    assert!(said.contains("ssh says: Host key verification failed."), "{said}");
    let elsewhere = refusal(&hosted, "elsewhere", "host: ssh://192.0.2.1\n");
    assert!(elsewhere.contains("publish") || elsewhere.contains("ssh"), "{elsewhere}");
    let mut hosted = hosted;
    assert!(sshd.sessions() > 0, "{}", sshd.log());
    hosted.workspace.kill();
    assert!(
        eventually(PATIENCE, || sshd.sessions() == 0),
        "a killed server leaves sessions:\n{}",
        sshd.log()
    );
    hosted.workspace.start();
}

#[test]
fn podman_is_used_as_docker_is() {
    let Some(host) = podman() else { return };
    lives(&Hosted::on(Workspace::down(), "", host), "rowed");
}

#[test]
fn a_locked_registry_is_pushed_to_and_pulled_from_and_nobody_hears_the_password() {
    let (Some(registry), Some(host)) = (Registry::start_locked(&format!("robot:{HASHED}\n")), engine())
    else {
        return;
    };
    let mut workspace = Workspace::down();
    let settings = workspace.work().join("docker");
    workspace.set_variable("DOCKER_CONFIG", &settings);
    let encoded = |password: &str| {
        workspace.write("word", format!("robot:{password}"));
        let word = workspace.work().join("word").display().to_string();
        tool("base64", &["--wrap=0", &word])
    };
    let (right, wrong) = (encoded(PASSWORD), encoded("s3cret-of-yesterday"));
    let log_in = |workspace: &Workspace, auth: &str| {
        let config = format!("{{\"auths\": {{\"{}\": {{\"auth\": \"{auth}\"}}}}}}", registry.host);
        workspace.write("docker/config.json", config);
    };
    log_in(&workspace, &right);
    let mut hosted = Hosted::on(workspace, &format!("registry: {}/made\n", registry.host), host);
    hosted.workspace.write("model.onnx", onnx::linear_model());
    let key = hosted.deploy("locked", &onnx_deployment("blue", "locked", "model.onnx"));
    assert_eq!(hosted.score("locked", &key).0, 200);

    let seen = inspect(&hosted.host, &hosted.containers("locked")[0]);
    let image = inspect(&hosted.host, seen["Config"]["Image"].as_str().expect("it has an image"));
    let pulled = image["RepoDigests"].to_string();
    assert!(pulled.contains(&format!("{}/made/", registry.host)), "the Engine pulled it: {pulled}");

    // What let it in once is kept for as long as it does; a server that is started anew has nothing yet.
    log_in(&hosted.workspace, &wrong);
    hosted.workspace.kill();
    hosted.workspace.start();
    let workspace = &hosted.workspace;
    let update =
        ["online-deployment", "update", "-n", "blue", "-e", "locked", "--set", "environment_variables.A=b"];
    let refused = workspace.moorline(&update);
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    assert!(refused.stderr.contains(&registry.host), "{}", refused.stderr);
    assert_eq!(hosted.score("locked", &key).0, 200, "the old version serves on");
    for told in [seen.to_string(), image.to_string(), workspace.server_log(), refused.stderr, refused.stdout]
    {
        for secret in ["s3cret-of", &right, &wrong] {
            assert!(!told.contains(secret), "a password is in {told}");
        }
    }
}
