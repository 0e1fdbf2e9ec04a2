//! Making what uv installed under a prefix into a virtual environment of an image: in the places that the image's Python
//! looks in, with nothing of this machine in it, and the same whoever made it.

use std::{
    fmt::Write as _,
    io,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use moorline_core::Digest;

use super::distributions::{self, Distribution};
use crate::image::BasePython;

/// Where the environment lies in every image.
pub(super) const IN_IMAGE: &str = "/opt/moorline/release/environment";
/// What uv writes for itself: where a package came from on this machine, and when.
const OF_UV: [&str; 2] = ["uv_cache.json", "uv_build.json"];
const DIRECT_URL: &str = "direct_url.json";

/// Finishes the tree, and gives the exact versions in it, a line each.
pub(super) fn finish(tree: &Path, base: &BasePython) -> io::Result<String> {
    let version = base.version();
    let packages = tree.join(format!("lib/python{version}/site-packages"));
    gather(tree, &packages)?;
    remove_file(&tree.join(".lock"))?;
    let bin = tree.join("bin");
    fs_err::create_dir_all(&bin)?;
    let scripts = point_scripts(&bin)?;
    for entry in fs_err::read_dir(&packages)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "dist-info") {
            tidy(&path, &scripts)?;
        }
    }
    if let Some(own) = &base.site_packages {
        // A virtual environment that stands on another would not see its packages.
        fs_err::write(packages.join("_moorline_base.pth"), format!("{own}\n"))?;
    }
    let settings = format!(
        "home = {}\ninclude-system-site-packages = true\nversion = {}\n",
        base.home,
        base.full_version()
    );
    fs_err::write(tree.join("pyvenv.cfg"), settings)?;
    link(&base.path, &bin.join("python"))?;
    link("python", &bin.join("python3"))?;
    link("python", &bin.join(format!("python{version}")))?;
    let mut lock = String::new();
    for distribution in distributions::installed(&packages)? {
        let _ = writeln!(lock, "{}=={}", distribution.normal_name(), distribution.version);
    }
    Ok(lock)
}

/// The distributions in a finished tree, by name.
pub(crate) fn distributions_of_tree(tree: &Path) -> io::Result<Vec<Distribution>> {
    let library = tree.join("lib");
    let mut found = Vec::new();
    for name in sorted(&library)? {
        let packages = library.join(name).join("site-packages");
        if packages.is_dir() {
            found.extend(distributions::installed(&packages)?);
        }
    }
    Ok(found)
}

/// uv names the folder after the Python that it was run with, and where a distribution has `lib64`, uses that as well.
fn gather(tree: &Path, packages: &Path) -> io::Result<()> {
    let mut found = Vec::new();
    for library in ["lib", "lib64"] {
        for name in sorted(&tree.join(library))? {
            found.push(tree.join(library).join(name));
        }
    }
    for folder in found {
        let own = folder.join("site-packages");
        if own != *packages && own.is_dir() {
            merge(&own, packages)?;
            fs_err::remove_dir(&own)?;
            // What else a package put beside it stays.
            let _ = fs_err::remove_dir(&folder);
        }
    }
    let _ = fs_err::remove_dir(tree.join("lib64"));
    fs_err::create_dir_all(packages)
}

/// Moves all that is in a folder into another.
fn merge(from: &Path, to: &Path) -> io::Result<()> {
    fs_err::create_dir_all(to)?;
    for name in sorted(from)? {
        let (from, to) = (from.join(&name), to.join(&name));
        if to.is_dir() && from.is_dir() {
            merge(&from, &to)?;
            fs_err::remove_dir(&from)?;
        } else {
            fs_err::rename(&from, &to)?;
        }
    }
    Ok(())
}

/// A script that was changed: its name, and its line of `RECORD` after the name.
struct Script {
    name: String,
    record: String,
}

/// Makes scripts start the image's interpreter.
fn point_scripts(bin: &Path) -> io::Result<Vec<Script>> {
    let mut changed = Vec::new();
    for name in sorted(bin)? {
        let path = bin.join(&name);
        if !path.is_file() {
            continue;
        }
        let content = fs_err::read(&path)?;
        let Some(rest) = after_shebang(&content) else { continue };
        let mut new = format!("#!{IN_IMAGE}/bin/python\n").into_bytes();
        new.extend_from_slice(rest);
        fs_err::write(&path, &new)?;
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        let Ok(name) = name.into_string() else { continue };
        let hash = URL_SAFE_NO_PAD.encode(Digest::of(&new).bytes());
        changed.push(Script { name, record: format!("sha256={hash},{}", new.len()) });
    }
    Ok(changed)
}

/// What follows the line that names an interpreter of this machine; long paths are named with the help of a shell.
fn after_shebang(content: &[u8]) -> Option<&[u8]> {
    let line = |from: &[u8]| from.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
    let first = line(content)?;
    let named = content.strip_prefix(b"#!")?;
    let named = String::from_utf8_lossy(&named[..first - 2]);
    if named.trim() == "/bin/sh" {
        let exec = content[first..].strip_prefix(b"'''exec' ")?;
        let second = line(exec)?;
        return exec[second..].strip_prefix(b"' '''\n");
    }
    named.contains("python").then(|| &content[first..])
}

/// Takes out of a distribution's folder what is of this machine, and writes its list of files anew.
fn tidy(info: &Path, scripts: &[Script]) -> io::Result<()> {
    let mut removed = Vec::new();
    for name in OF_UV {
        if remove_file(&info.join(name))? {
            removed.push(name);
        }
    }
    let url = info.join(DIRECT_URL);
    if url.is_file() && fs_err::read_to_string(&url)?.contains("file://") {
        fs_err::remove_file(&url)?;
        removed.push(DIRECT_URL);
    }
    let record = info.join("RECORD");
    if !record.is_file() {
        return Ok(());
    }
    let folder = info.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = fs_err::read_to_string(&record)?;
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| {
            let gone = |name: &&str| line.starts_with(&format!("{folder}/{name},"));
            !line.is_empty() && !removed.iter().any(gone)
        })
        .map(|line| {
            let script = scripts.iter().find_map(|script| {
                let path = format!("../../../bin/{}", script.name);
                let same = line.strip_prefix(&path)?.starts_with(',');
                same.then(|| format!("{path},{}", script.record))
            });
            script.unwrap_or_else(|| line.to_owned())
        })
        .collect();
    lines.sort_unstable();
    fs_err::write(&record, lines.join("\n") + "\n")
}

fn link(target: &str, place: &Path) -> io::Result<()> {
    remove_file(place)?;
    symlink(target, place)
}

fn sorted(folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let names: io::Result<Vec<_>> = fs_err::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect();
    let mut names = names?;
    names.sort_unstable();
    Ok(names)
}

/// Whether it was there.
fn remove_file(path: &Path) -> io::Result<bool> {
    match fs_err::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
