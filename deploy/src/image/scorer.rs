//! The scorer in an image: without libraries where it needs none, else with all of its own.
//!
//! A scorer that loads libraries brings them, and the loader too, below `/opt/moorline/lib`, and is started through that
//! loader: so it runs on a base with another C library, an older one, or none. `--library-path` is the loader's own
//! argument and not inherited, so the Python that a scorer starts sees the base's libraries and none of ours.

use std::path::Path;

use moorline_core::{EngineName, ErrorClass, MachineDevices, ModelType, Release};

use super::{
    ImageConfig, ImageError, LayerKind,
    elf::{self, Elf},
    tarball::{Content, PLAIN, PROGRAM, Tree},
};
use crate::registry::Platform;

pub(crate) const PROGRAM_PATH: &str = "/opt/moorline/bin/moorline-scorer";
pub(crate) const GATEWAY_PATH: &str = "/opt/moorline/bin/moorline";
pub(crate) const LIBRARIES: &str = "/opt/moorline/lib";
pub(crate) const ONNXRUNTIME: &str = "/opt/moorline/lib/libonnxruntime.so";
/// Where an image has the bitstream of its devices.
pub const BITSTREAM_PATH: &str = "/opt/moorline/fpga/bitstream.fbit";
pub(crate) const USER: &str = "65532:65532";

/// What a scorer adds to an image.
#[derive(Debug)]
pub(crate) struct Scorer {
    pub(crate) layers: Vec<(LayerKind, Tree)>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) variables: Vec<(String, String)>,
    /// The path by which the program asks for its loader, where that is another than the image's.
    pub(crate) loader: Option<(String, String)>,
}

/// Whether the engine library has to be there: asked for, or better than what is built in.
fn wants_onnxruntime(config: &ImageConfig, release: &Release) -> Result<bool, ImageError> {
    let runs_onnx = release.code.is_none()
        && release.model.as_ref().is_some_and(|model| model.model_type == ModelType::Onnx);
    match release.engine.name {
        Some(EngineName::Ort) if config.onnxruntime.is_none() => Err(ImageError::new(
            ErrorClass::Unavailable,
            "the release asks for the engine `ort`, and no onnxruntime library is configured for images; install onnxruntime, or ask for `tract`",
        )),
        Some(EngineName::Ort) => Ok(true),
        Some(EngineName::Tract) => Ok(false),
        None => Ok(runs_onnx && config.onnxruntime.is_some()),
    }
}

/// The scorer for this machine's platform. For devices it has to load their drivers.
pub(crate) fn of_host(config: &ImageConfig, release: &Release, devices: bool) -> Result<Scorer, ImageError> {
    match wants_onnxruntime(config, release)? {
        false if !devices => plain(config),
        false => dynamic(&config.scorer, None),
        true => dynamic(&config.scorer, config.onnxruntime.as_deref()),
    }
}

/// The scorer for this machine's platform, where it runs no model.
pub(crate) fn plain(config: &ImageConfig) -> Result<Scorer, ImageError> {
    match &config.static_scorer {
        Some(program) => of_static(program),
        None => dynamic(&config.scorer, None),
    }
}

/// Refuses what is no static program of a platform, before an image is made with it.
pub(crate) fn check_other(platform: &Platform, program: &Path) -> Result<(), ImageError> {
    of_static(program)?;
    let elf = Elf::read(program).map_err(|error| unreadable(program, error))?;
    if elf.suits(&platform.architecture) {
        return Ok(());
    }
    Err(ImageError::refused(format!(
        "`{}` is configured as the scorer for {platform} and is a program for another processor",
        program.display()
    )))
}

pub(crate) fn of_static(program: &Path) -> Result<Scorer, ImageError> {
    let elf = Elf::read(program).map_err(|error| unreadable(program, error))?;
    if !elf.is_static() {
        return Err(ImageError::refused(format!(
            "`{}` is configured as the static scorer and loads libraries",
            program.display()
        )));
    }
    let layers = vec![(LayerKind::Scorer, program_tree(program, PROGRAM_PATH)?)];
    let entrypoint = vec![PROGRAM_PATH.to_owned()];
    Ok(Scorer { layers, entrypoint, variables: Vec::new(), loader: None })
}

fn dynamic(program: &Path, onnxruntime: Option<&Path>) -> Result<Scorer, ImageError> {
    let elf = Elf::read(program).map_err(|error| unreadable(program, error))?;
    if elf.is_static() {
        return match onnxruntime {
            None => of_static(program),
            Some(_) => Err(ImageError::refused(format!(
                "`{}` is configured as the scorer that loads engines and is static",
                program.display()
            ))),
        };
    }
    with_libraries(program, (LayerKind::Scorer, PROGRAM_PATH), elf, onnxruntime)
}

/// The server's own program, which is a gateway where it is told to be one: with its libraries, on nothing else.
pub(crate) fn of_gateway(program: &Path) -> Result<Scorer, ImageError> {
    let elf = Elf::read(program).map_err(|error| unreadable(program, error))?;
    if elf.is_static() {
        let layers = vec![(LayerKind::Gateway, program_tree(program, GATEWAY_PATH)?)];
        let entrypoint = vec![GATEWAY_PATH.to_owned()];
        return Ok(Scorer { layers, entrypoint, variables: Vec::new(), loader: None });
    }
    with_libraries(program, (LayerKind::Gateway, GATEWAY_PATH), elf, None)
}

fn with_libraries(
    program: &Path,
    (kind, place): (LayerKind, &str),
    elf: Elf,
    onnxruntime: Option<&Path>,
) -> Result<Scorer, ImageError> {
    let roots: Vec<&Path> = [Some(program), onnxruntime].into_iter().flatten().collect();
    let closure = elf::closure(&roots)
        .map_err(|error| ImageError::io("could not find the libraries of a program", error))?;
    let mut libraries = Tree::default();
    for (name, path) in &closure {
        // Only the loader is run.
        let mode = if name.starts_with("ld-") || name.starts_with("ld.") { PROGRAM } else { PLAIN };
        add(&mut libraries, &format!("{LIBRARIES}/{name}"), mode, path)?;
    }
    let mut layers = vec![(LayerKind::Engine, libraries)];
    let mut variables = Vec::new();
    if let Some(onnxruntime) = onnxruntime {
        let mut engine = Tree::default();
        add(&mut engine, ONNXRUNTIME, PLAIN, onnxruntime)?;
        layers.push((LayerKind::Engine, engine));
        variables.push(("ORT_DYLIB_PATH".to_owned(), ONNXRUNTIME.to_owned()));
    }
    layers.push((kind, program_tree(program, place)?));
    let Some(asked) = elf.interpreter else {
        return Err(ImageError::refused(format!("`{}` names no loader", program.display())));
    };
    let loader = format!("{LIBRARIES}/{}", elf::file_name(&asked));
    let entrypoint = [&loader, "--library-path", LIBRARIES, place].map(str::to_owned).into();
    Ok(Scorer { layers, entrypoint, variables, loader: Some((asked, loader)) })
}

/// The few files that a scorer on nothing else has around it. With a loader of its own at the place where programs ask
/// for it, the program can be run by its path too.
pub(crate) fn base(scorer: &Scorer) -> Tree {
    let mut tree = Tree::default();
    let file = |text: &str| Content::Bytes(text.as_bytes().to_vec());
    let passwd = "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin\n";
    tree.add("etc/passwd", PLAIN, file(passwd));
    tree.add("etc/group", PLAIN, file("root:x:0:\nnonroot:x:65532:\n"));
    tree.add("tmp", 0o1777, Content::Folder);
    if let Some((asked, loader)) = &scorer.loader {
        tree.add(asked.trim_start_matches('/'), 0o777, Content::Link(loader.clone()));
    }
    tree
}

/// The bitstream, and the folder in which those who share the machine's devices lease them.
pub(crate) fn bitstream(file: &Path) -> Result<Tree, ImageError> {
    let mut tree = Tree::default();
    add(&mut tree, BITSTREAM_PATH, PLAIN, file)?;
    // A volume that is mounted there takes over that anybody may write to it.
    tree.add(MachineDevices::LEASES.trim_start_matches('/'), 0o1777, Content::Folder);
    Ok(tree)
}

fn program_tree(program: &Path, place: &str) -> Result<Tree, ImageError> {
    let mut tree = Tree::default();
    add(&mut tree, place, PROGRAM, program)?;
    Ok(tree)
}

fn add(tree: &mut Tree, at: &str, mode: u32, from: &Path) -> Result<(), ImageError> {
    tree.add_file(at.trim_start_matches('/'), mode, from).map_err(|error| unreadable(from, error))
}

fn unreadable(path: &Path, error: std::io::Error) -> ImageError {
    ImageError::io(format!("could not read `{}` for an image", path.display()), error)
}
