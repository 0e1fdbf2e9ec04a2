//! An image with OpenCL's loader and PoCL, as the maker of a board would give one out with his driver: made of this
//! machine's own files, so that a bitstream that was built here is for the same driver.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    containers::{docker, tool},
    place::skip,
};

/// Where Debian's packages have what is loaded by name; the ends of these names differ from one version to the next.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

/// Writes the image as `docker save` does; `host` is an Engine, which makes it. `None` (and `SKIPPED` in the output) where
/// there is no PoCL.
pub fn opencl_image(host: &str, folder: &Path) -> Option<PathBuf> {
    let roots = loaded();
    if roots.is_empty() {
        skip("there is no PoCL; install pocl-opencl-icd and ocl-icd-libopencl1");
        return None;
    }
    let mut files = needed(&roots);
    files.extend(roots.iter().map(|file| file.display().to_string()));
    files.extend(["/etc/OpenCL/vendors", "/usr/share/pocl"].map(str::to_owned));
    let (tree, archive) = (folder.join("opencl.tar"), folder.join("opencl-image.tar"));
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--dereference").arg("--file").arg(&tree).arg("--directory=/");
    tar.args(files.iter().map(|file| file.trim_start_matches('/')));
    assert!(tar.status().expect("there is a tar").success(), "PoCL's files could not be put into a tar");
    let name = format!("moorline-test-opencl:{}", std::process::id());
    docker(host, &["import", &tree.display().to_string(), &name]);
    docker(host, &["save", "--output", &archive.display().to_string(), &name]);
    docker(host, &["image", "rm", &name]);
    Some(archive)
}

/// OpenCL's loader, PoCL, and its devices.
fn loaded() -> Vec<PathBuf> {
    let in_folder = |folder: &str, begins: &str| -> Vec<PathBuf> {
        let entries = fs_err::read_dir(folder).into_iter().flatten().flatten();
        let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(begins));
        named.map(|entry| entry.path()).collect()
    };
    let pocl = in_folder(LIBRARIES, "libpocl.so.");
    if pocl.is_empty() {
        return pocl;
    }
    let loader = in_folder(LIBRARIES, "libOpenCL.so.");
    let devices = in_folder(&format!("{LIBRARIES}/pocl"), "libpocl-devices-");
    [loader, pocl, devices].concat()
}

/// The libraries that these load, as the system's own loader finds them.
fn needed(roots: &[PathBuf]) -> BTreeSet<String> {
    let roots: Vec<String> = roots.iter().map(|file| file.display().to_string()).collect();
    let roots: Vec<&str> = roots.iter().map(String::as_str).collect();
    let told = tool("ldd", &roots);
    let path = |line: &str| {
        let place = line.split_once("=> ").map_or(line, |(_, place)| place);
        let place = place.split_whitespace().next()?;
        place.starts_with('/').then(|| place.trim_end_matches(':').to_owned())
    };
    told.lines().filter_map(path).collect()
}
