//! The rows of container hosts: how long until a deployment answers from a container, and what the container costs.

use std::{
    net::ToSocketAddrs as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use xtask::scorer::RunningScorer;

use crate::{
    containers::{self, Container, Docker, Network, Registry},
    control_group::ControlGroup,
    image_rows::{NO_BASE, NO_ENGINE, NO_REGISTRY, script, scripted, timed},
    peers::{free_address, healthy},
    report::{Bound, Row},
    rows::{self, Effort, by_turns, median},
    stage::Stage,
    workspace::Home,
    workspace_rows::scoring,
};

/// Of the row that asks for throughput.
const CONNECTIONS: usize = 16;
/// Longer than a container takes to serve.
const START_LIMIT: Duration = Duration::from_secs(30);
/// In a control group of its own, as a container is.
const OUTSIDE: &str = "the same scorer outside";
const LOOK: Duration = Duration::from_millis(10);

/// A home with an endpoint, and a compute `docker` whose containers go with it.
pub(crate) fn hosted<'a>(stage: &Stage<'a>, name: &str, docker: &Docker) -> Result<Home<'a>> {
    let home = Home::new(stage.workspace, stage.folder(name))?;
    let file = home.folder.join("docker.yml");
    fs_err::write(&file, format!("name: docker\ntype: container\nhost: {}\n", docker.host))?;
    home.run(&["compute", "create", "-f", &file.to_string_lossy(), "-o", "none"])?;
    home.run(&["online-endpoint", "create", "-n", "bench", "-o", "none"])?;
    Ok(home)
}

/// Creates what `document` writes under each name, until the endpoint answers; seconds of all but the first, which brings
/// what is below model and code to the host.
fn until_answered(
    stage: &Stage<'_>,
    effort: Effort,
    home: &Home<'_>,
    document: impl Fn(&str) -> Result<PathBuf>,
) -> Result<f64> {
    let (key, body) = (home.key("bench")?, stage.tiny_json_body()?.to_string_lossy().into_owned());
    let asked = scoring(&key, &body);
    let (mut taken, mut before) = (Vec::new(), None::<String>);
    for round in 0..=effort.rounds.max(3) {
        let name = format!("d{round:03}");
        let file = document(&name)?.to_string_lossy().into_owned();
        let create = ["online-deployment", "create", "-f", &file, "--compute", "docker", "--all-traffic"];
        let seconds = timed(|| {
            home.run(&[&create[..], &["-o", "none"]].concat())?;
            home.seconds_of("/endpoints/bench/score", &asked)
        })?;
        if round > 0 {
            taken.push(seconds);
        }
        if let Some(before) = before.replace(name) {
            home.run(&["online-deployment", "delete", "-n", &before, "-e", "bench", "-y"])?;
        }
    }
    home.run(&["online-endpoint", "delete", "-n", "bench", "-y"])?;
    Ok(median(taken))
}

fn row(name: &'static str, seconds: f64) -> Row {
    Row {
        name,
        baseline: "–".to_owned(),
        ours: format!("{seconds:.2} s"),
        value: seconds,
        unit: " s",
        bound: Bound::AtMost(3.0),
    }
}

/// Each deployment has a variable of its own, so that its image is not made yet.
pub(crate) fn create_onnx(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let name = "`online-deployment create` on a warm container host until the first answer, tiny ONNX";
    let Some(docker) = Docker::find() else { return Ok(vec![Row::not_measured(name, NO_ENGINE)]) };
    let home = hosted(stage, "create-onnx", &docker)?;
    let model = stage.tiny_model()?;
    home.run(&["model", "create", "-n", "tiny", "-p", &model.to_string_lossy(), "-o", "none"])?;
    let document = |name: &str| {
        let file = home.folder.join("onnx.yml");
        let text = format!(
            "name: {name}\nendpoint_name: bench\nmodel: azureml:tiny@latest\ninstance_count: 1\n\
             environment_variables: {{NUMBER: {name}}}\n"
        );
        fs_err::write(&file, text)?;
        Ok(file)
    };
    let seconds = until_answered(stage, effort, &home, document)?;
    docker.forget_images()?;
    Ok(vec![row(name, seconds)])
}

/// Each deployment has another script.
pub(crate) fn create_script(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let name = "the same, `score.py`, environment there";
    let missing = |why: &str| Ok(vec![Row::not_measured(name, why)]);
    let Some(docker) = Docker::find() else { return missing(NO_ENGINE) };
    let Some(archive) = containers::base_image() else { return missing(NO_BASE) };
    let Some(registry) = Registry::start(stage.folder("script-registry"))? else {
        return missing(NO_REGISTRY);
    };
    let base = registry.take(&archive)?;
    let home = hosted(stage, "create-script", &docker)?;
    let document = |name: &str| {
        script(&home, name)?;
        scripted(&home, name, "", &base)
    };
    let seconds = until_answered(stage, effort, &home, document)?;
    docker.forget_images()?;
    Ok(vec![row(name, seconds)])
}

/// One image's scorer and its release: on this machine, in a container with the machine's network, and in one with a port
/// that the Engine publishes.
pub(crate) fn throughput(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let name = "tiny ONNX in a container with the host's network, requests/s";
    let Some(docker) = Docker::find() else { return Ok(vec![Row::not_measured(name, NO_ENGINE)]) };
    let home = Home::new(stage.workspace, stage.folder("throughput"))?;
    let file = home.folder.join("deployment.yml");
    let model = stage.tiny_model()?;
    let text = format!(
        "name: blue\nendpoint_name: bench\nmodel:\n  path: {}\ninstance_count: 1\nproperties:\n  \
         moorline.engine: tract\n",
        model.display()
    );
    fs_err::write(&file, text)?;
    let (image, archive) = ("moorline-bench/throughput:1", home.folder.join("image.tar"));
    let (file, output) = (file.to_string_lossy(), archive.to_string_lossy());
    home.run(&["image", "build", "-f", &file, "-t", image, "-o", &output, "-o", "none"])?;
    docker.take(&archive, image)?;

    let made = Container::new(&docker, &["create"], &[image])?;
    let inner = home.folder.join("inner");
    docker.run(&["cp", &format!("{}:/opt/moorline", made.id), &inner.to_string_lossy()])?;
    drop(made);
    let quiet = ["--log-format", "json"];
    let outside = RunningScorer::start_program(
        stage.workspace,
        &inner.join("bin/moorline-scorer"),
        &inner.join("release"),
        &[],
    )?;
    let url = |address: &str| format!("http://{address}/score");
    let load = stage.tiny_json(CONNECTIONS)?;

    let (data, admin) = (free_address()?, free_address()?);
    let ports = ["--port", port(&data)?, "--admin-port", port(&admin)?];
    let run = ["run", "--detach"];
    let inside =
        Container::new(&docker, &run, &[&["--network", "host", image][..], &ports, &quiet].concat())?;
    wait_for(&docker, &inside, &data)?;
    let (theirs, ours) = by_turns(effort, &load, &url(&outside.address), &url(&data))?;
    let (alone, of_all) = (theirs.requests_per_second, ours.requests_per_second);
    let as_it_is =
        rows::throughput("the same, outside without a control group", "the scorer", alone, of_all, 0.0);
    let group = ControlGroup::beside(&docker.run(&["inspect", "--format", "{{.State.Pid}}", &inside.id])?)?;
    group.take(outside.id())?;
    let (theirs, ours) = by_turns(effort, &load, &url(&outside.address), &url(&data))?;
    let in_host = rows::throughput(name, OUTSIDE, theirs.requests_per_second, ours.requests_per_second, 0.95);
    drop(inside);

    // As the containers of an endpoint have one.
    let network = Network::new(&docker)?;
    let with_port = ["--network", &network.id, "--publish", "127.0.0.1::5001", image];
    let inside = Container::new(&docker, &run, &[&with_port[..], &quiet].concat())?;
    let published = docker.run(&["port", &inside.id, "5001"])?;
    wait_for(&docker, &inside, &published)?;
    let (theirs, ours) = by_turns(effort, &load, &url(&outside.address), &url(&published))?;
    let published = rows::throughput(
        "the same, through a published port",
        OUTSIDE,
        theirs.requests_per_second,
        ours.requests_per_second,
        0.0,
    );
    drop(inside);
    outside.stop()?;
    drop(group);
    docker.run(&["image", "rm", "--force", image])?;
    let open = |row| Row { bound: Bound::Open, ..row };
    Ok(vec![in_host, open(as_it_is), open(published)])
}

fn port(address: &str) -> Result<&str> {
    Ok(address.rsplit_once(':').context("an address has a port")?.1)
}

/// Waits until a container serves at `address`; its log is part of the error.
fn wait_for(docker: &Docker, container: &Container<'_>, address: &str) -> Result<()> {
    address.to_socket_addrs().with_context(|| format!("`{address}` is no address"))?;
    let deadline = Instant::now() + START_LIMIT;
    while !healthy(address) {
        if Instant::now() > deadline {
            bail!("the container does not serve:\n{}", docker.story_of(&container.id)?);
        }
        thread::sleep(LOOK);
    }
    Ok(())
}
