//! Takes up what `cargo xtask portal` has built, if it has. Nothing is built here: Cargo works without npm, and a change
//! of the pages compiles this crate alone anew.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

const BUILT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../portal/dist");

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={BUILT}");
    let built = Path::new(BUILT);
    let mut found = Vec::new();
    // Outside a checkout there is no such folder.
    if built.is_dir() {
        collect(built, &mut found)?;
    }
    found.sort();
    let mut text = "&[\n".to_owned();
    for file in found.iter().filter(|file| file.extension().is_none_or(|end| end != "gz")) {
        let name = file.strip_prefix(built).map_err(io::Error::other)?;
        let small = PathBuf::from(format!("{}.gz", file.display()));
        let small = if found.contains(&small) {
            format!("Some(include_bytes!({small:?}))")
        } else {
            "None".to_owned()
        };
        writeln!(text, "    Embedded {{ path: {name:?}, plain: include_bytes!({file:?}), small: {small} }},")
            .map_err(io::Error::other)?;
    }
    text.push_str("]\n");
    let out = std::env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("Cargo names no OUT_DIR"))?;
    fs_err::write(Path::new(&out).join("files.rs"), text)
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.starts_with('.'));
        if path.is_dir() {
            collect(&path, found)?;
        } else if !hidden {
            found.push(path);
        }
    }
    Ok(())
}
