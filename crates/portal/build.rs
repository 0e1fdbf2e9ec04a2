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
    let out = std::env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("Cargo names no OUT_DIR"))?;
    let out = PathBuf::from(out);
    // A copy of each: whoever builds the portal anew while this is compiled changes nothing of it.
    let embed = |file: &Path, name: &str| {
        fs_err::copy(file, out.join(name))?;
        Ok::<_, io::Error>(format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}\"))"))
    };
    let mut text = "&[\n".to_owned();
    let plain = found.iter().filter(|file| file.extension().is_none_or(|end| end != "gz"));
    for (number, file) in plain.enumerate() {
        let path = file.strip_prefix(built).map_err(io::Error::other)?;
        let path = path.to_str().ok_or_else(|| io::Error::other("a file's name is not UTF-8"))?;
        let small = PathBuf::from(format!("{}.gz", file.display()));
        let small = if found.contains(&small) {
            format!("Some({})", embed(&small, &format!("{number}.gz"))?)
        } else {
            "None".to_owned()
        };
        let plain = embed(file, &number.to_string())?;
        writeln!(text, "    Embedded {{ path: {path:?}, plain: {plain}, small: {small} }},")
            .map_err(io::Error::other)?;
    }
    text.push_str("]\n");
    fs_err::write(out.join("files.rs"), text)
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
