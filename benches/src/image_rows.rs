//! The rows of images: how long one is made, beside `sha256sum` and `docker build`, and how much of it is sent again.

use std::{path::PathBuf, process::Command, time::Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;
use xtask::shell;

use crate::{
    containers::{self, BASE, Docker, Registry},
    hosted_rows,
    report::{Bound, Row},
    rows::{Effort, Measure, median},
    stage::Stage,
    workspace::Home,
};

/// The measurements of images and containers by name, in the order of the table.
pub const IMAGE: [(&str, Measure); 6] = [
    ("assemble", assemble),
    ("push", push),
    ("docker-build", docker_build),
    ("create-onnx", hosted_rows::create_onnx),
    ("create-script", hosted_rows::create_script),
    ("throughput", hosted_rows::throughput),
];

/// Rounds with a large model, each of which fills the disk with another image of it.
const MOST_LARGE_ROUNDS: usize = 3;
pub(crate) const NO_BASE: &str = "no base image; mmdebstrap makes one";
pub(crate) const NO_REGISTRY: &str = "no `docker-registry`";
pub(crate) const NO_ENGINE: &str = "no Docker Engine";

/// Of the scripted image: what it says, in a folder below `home`.
pub(crate) fn script(home: &Home<'_>, text: &str) -> Result<()> {
    let code = home.folder.join("code");
    fs_err::create_dir_all(&code)?;
    let echo = "import json\n\n\ndef init():\n    pass\n\n\ndef run(data):\n    return json.loads(data)\n";
    Ok(fs_err::write(code.join("score.py"), format!("# {text}\n{echo}"))?)
}

/// A deployment of the script on `base`; the file.
pub(crate) fn scripted(home: &Home<'_>, name: &str, model: &str, base: &str) -> Result<PathBuf> {
    let file = home.folder.join("scripted.yml");
    let text = format!(
        "name: {name}\nendpoint_name: bench\n{model}code_configuration:\n  code: code\n  scoring_script: score.py\n\
         environment:\n  image: {base}\ninstance_count: 1\n"
    );
    fs_err::write(&file, text)?;
    Ok(file)
}

fn build(home: &Home<'_>, file: &std::path::Path, reference: &str, more: &[&str]) -> Result<f64> {
    let file = file.to_string_lossy();
    let arguments = [&["image", "build", "-f", &file, "-t", reference, "-o", "none"], more].concat();
    timed(|| home.run(&arguments))
}

pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

/// The large model under a name of its own, so that its layer is another one, registered as `large:ROUND`. The store has
/// the content after the first round: it is hashed, and not sent again.
fn register_large(home: &Home<'_>, model: &std::path::Path, round: usize) -> Result<()> {
    let own = home.folder.join(format!("large-{round}.onnx"));
    fs_err::hard_link(model, &own)?;
    let (version, path) = (round.to_string(), own.to_string_lossy().into_owned());
    home.run(&["model", "create", "-n", "large", "-v", &version, "-p", &path, "-o", "none"])?;
    // Into the page cache, as the other side has its file.
    let blob = home.blob_of_size(fs_err::metadata(model)?.len())?;
    std::io::copy(&mut fs_err::File::open(blob)?, &mut std::io::sink())?;
    Ok(())
}

/// A model without a script: whatever is in its file, since nobody loads it.
fn assemble(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let large = stage.large_model(effort.large)?;
    let home = Home::new(stage.workspace, stage.folder("assemble"))?;
    let tiny = stage.tiny_model()?;
    home.run(&["model", "create", "-n", "tiny", "-p", &tiny.to_string_lossy(), "-o", "none"])?;
    let file = home.folder.join("deployment.yml");
    let document = |model: &str| {
        format!(
            "name: blue\nendpoint_name: bench\nmodel: azureml:{model}\ninstance_count: 1\nproperties:\n  \
             moorline.engine: tract\n"
        )
    };
    // The scorer's own base and its layer are there from now on.
    fs_err::write(&file, document("tiny@latest"))?;
    build(&home, &file, "bench/tiny:1", &[])?;
    let (mut theirs, mut openssl, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=effort.rounds.min(MOST_LARGE_ROUNDS) {
        register_large(&home, &large, round)?;
        fs_err::write(&file, document(&format!("large:{round}")))?;
        theirs.push(timed(|| shell::output(Command::new("sha256sum").arg(&large)))?);
        openssl.push(timed(|| shell::output(Command::new("openssl").args(["dgst", "-sha256"]).arg(&large)))?);
        ours.push(build(&home, &file, &format!("bench/large:{round}"), &[])?);
    }
    let (theirs, openssl, ours) = (median(theirs), median(openssl), median(ours));
    let folder = home.folder.clone();
    drop(home);
    fs_err::remove_dir_all(folder)?;
    Ok(vec![
        Row {
            name: "`image build`, base there, large model, against hashing it",
            baseline: format!("`sha256sum`: {theirs:.2} s"),
            ours: format!("{ours:.2} s"),
            value: ours / theirs,
            unit: "",
            bound: Bound::AtMost(1.5),
        },
        Row {
            name: "the same, beyond a hash by the processor's own instructions",
            baseline: format!("`openssl dgst -sha256`: {openssl:.2} s"),
            ours: format!("{ours:.2} s"),
            value: ours - openssl,
            unit: " s",
            bound: Bound::AtMost(1.0),
        },
    ])
}

/// A pushed image is built and pushed again with another script. Two registries: one that gives the base, and one that has
/// nothing of it when the first push begins.
fn push(stage: &Stage<'_>, _: Effort) -> Result<Vec<Row>> {
    let name = "`image build --push` again with other code, of the image's bytes";
    let Some(base) = containers::base_image() else { return Ok(vec![Row::not_measured(name, NO_BASE)]) };
    let (from, to) = (Registry::start(stage.folder("push-from"))?, Registry::start(stage.folder("push-to"))?);
    let (Some(from), Some(to)) = (from, to) else { return Ok(vec![Row::not_measured(name, NO_REGISTRY)]) };
    let base = from.take(&base)?;
    let home = Home::new(stage.workspace, stage.folder("push"))?;
    let reference = format!("{}/ml/echo:1", to.host);
    let model = format!("model:\n  path: {}\n", stage.tiny_model()?.display());
    script(&home, "one")?;
    let file = scripted(&home, "blue", &model, &base)?;
    build(&home, &file, &reference, &["--push"])?;
    let first = to.bytes()?;
    script(&home, "another")?;
    build(&home, &file, &reference, &["--push"])?;
    let second = to.bytes()? - first;
    let shown: Value = serde_json::from_str(&home.run(&["image", "show", &reference, "-o", "json"])?)?;
    let size = shown["size"].as_u64().context("an image has a size")?;
    Ok(vec![Row {
        name,
        baseline: format!("the image: {:.1} MB; first push: {:.1} MB", size as f64 / 1e6, first as f64 / 1e6),
        ours: format!("{:.1} kB", second as f64 / 1e3),
        value: second as f64 / size as f64 * 100.0,
        unit: " %",
        bound: Bound::Below(1.0),
    }])
}

/// The same files on the same base, by `docker build` and by us; then what it takes to have them elsewhere too.
fn docker_build(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let name = "an image with a large model and a script, base there, against `docker build`";
    let missing = |why: &str| Ok(vec![Row::not_measured(name, why)]);
    let Some(docker) = Docker::find() else { return missing(NO_ENGINE) };
    let Some(archive) = containers::base_image() else { return missing(NO_BASE) };
    let Some(registry) = Registry::start(stage.folder("build-registry"))? else {
        return missing(NO_REGISTRY);
    };
    docker.run(&["load", "--quiet", "--input", &archive.to_string_lossy()])?;
    let base = registry.take(&archive)?;
    let large = stage.large_model(effort.large)?;
    let home = hosted_rows::hosted(stage, "docker-build", &docker)?;
    script(&home, "built")?;
    let context = context(stage, &home, &large)?;
    let context = context.to_string_lossy();
    // The base is in our store, and its Python is known.
    let file = scripted(&home, "blue", "", &base)?;
    build(&home, &file, "bench/without:1", &[])?;
    let [mut theirs, mut ours, mut pushed, mut served] = [const { Vec::new() }; 4];
    for round in 1..=effort.rounds.min(MOST_LARGE_ROUNDS) {
        let arguments = ["build", "--no-cache", "--quiet", "--tag", "moorline-bench:1", &context];
        theirs.push(timed(|| docker.run(&arguments))?);
        docker.run(&["image", "rm", "--force", "moorline-bench:1"])?;
        register_large(&home, &large, round)?;
        let file = scripted(&home, "blue", &format!("model: azureml:large:{round}\n"), &base)?;
        let made = build(&home, &file, &format!("bench/built:{round}"), &[])?;
        ours.push(made);
        let reference = format!("{}/bench/built:{round}", registry.host);
        pushed.push(made + build(&home, &file, &reference, &["--push"])?);
        let create = [
            "online-deployment",
            "create",
            "-f",
            &file.to_string_lossy(),
            "--compute",
            "docker",
            "-o",
            "none",
        ];
        served.push(made + timed(|| home.run(&create))?);
        home.run(&["online-deployment", "delete", "-n", "blue", "-e", "bench", "-y"])?;
        docker.forget_images()?;
    }
    let theirs = median(theirs);
    let row = |name, ours: f64, bound| Row {
        name,
        baseline: format!("`docker build --no-cache`: {theirs:.2} s"),
        ours: format!("{ours:.2} s"),
        value: theirs / ours,
        unit: "",
        bound,
    };
    let rows = vec![
        row(name, median(ours), Bound::AtLeast(5.0)),
        row("the same, and pushed to a registry on this machine", median(pushed), Bound::Open),
        row("the same, and loaded into the Engine and serving", median(served), Bound::Open),
    ];
    let folder = home.folder.clone();
    drop(home);
    fs_err::remove_dir_all(folder)?;
    Ok(rows)
}

/// What `docker build` is given: the files that our image has, and a Dockerfile that puts them where they are in it.
fn context(stage: &Stage<'_>, home: &Home<'_>, model: &std::path::Path) -> Result<PathBuf> {
    let context = home.folder.join("context");
    let files = context.join("release");
    for folder in ["model", "code"] {
        fs_err::create_dir_all(files.join(folder))?;
    }
    fs_err::hard_link(model, files.join("model/large.onnx"))?;
    fs_err::copy(home.folder.join("code/score.py"), files.join("code/score.py"))?;
    // Not looked at by `docker build`, and as long as ours.
    fs_err::write(files.join("release.json"), "{}")?;
    let scorer = stage.workspace.binary("moorline-scorer-static");
    fs_err::copy(scorer, context.join("moorline-scorer"))?;
    let text = format!(
        "FROM {BASE}\nCOPY moorline-scorer /opt/moorline/bin/moorline-scorer\nCOPY release/model /opt/moorline/release/model\n\
         COPY release/code /opt/moorline/release/code\nCOPY release/release.json /opt/moorline/release/release.json\n\
         ENV MOORLINE_RELEASE=/opt/moorline/release MOORLINE_HOST=0.0.0.0\nWORKDIR /opt/moorline/release\n\
         EXPOSE 5000 5001\nUSER 65532:65532\nENTRYPOINT [\"/opt/moorline/bin/moorline-scorer\"]\n"
    );
    fs_err::write(context.join("Dockerfile"), text)?;
    Ok(context)
}
