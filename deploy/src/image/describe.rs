//! What is said about an image that goes out into the world: its SBOM and its provenance, written beside it.

use std::{
    io::{self, Read},
    path::{Component, Path},
};

use moorline_core::{Digest, Release};
use tar::Archive;

use super::{
    Filesystem, Image, ImageError, ImageLayer, Images, LayerKind, Layout,
    attest::{self, Attachment, Contents, Made, Material},
    base::unpacked,
    scorer::ONNXRUNTIME,
};
use crate::registry::Reference;

/// The largest description of a Python distribution that is read.
const LARGEST_METADATA: u64 = 1 << 20;
const ENVIRONMENT: &str = "opt/moorline/release/environment";

impl Images {
    /// Adds an SBOM and a statement of provenance to an image, as its referrers. They are the same for the same image,
    /// and are added once.
    pub async fn describe(
        &self,
        image: &Image,
        release: &Release,
        environment: Option<&Digest>,
        version: &'static str,
    ) -> Result<(), ImageError> {
        let (image, release, environment) = (image.clone(), release.clone(), environment.copied());
        self.work(move |inner| {
            let layout = &inner.layout;
            let there = attest::referrers(layout, &image.digest)?;
            let kinds: Vec<_> = there.iter().filter_map(Attachment::of).collect();
            if kinds.contains(&Attachment::Sbom) && kinds.contains(&Attachment::Provenance) {
                return Ok(());
            }
            let sbom = sbom(layout, &image, &release, version)?;
            attest::attach(layout, &image.descriptor, Attachment::Sbom, &sbom)?;
            let provenance = provenance(&image, &release, environment.as_ref(), version);
            attest::attach(layout, &image.descriptor, Attachment::Provenance, &provenance)?;
            Ok(())
        })
        .await
    }
}

fn sbom(
    layout: &Layout,
    image: &Image,
    release: &Release,
    version: &'static str,
) -> Result<Vec<u8>, ImageError> {
    let failed = |error| ImageError::io("could not look through the layers of an image", error);
    let of = |kind: LayerKind| image.layers.iter().filter(move |layer| layer.kind == kind);
    let base = Filesystem::read(of(LayerKind::Base).map(|layer| tar_of(layout, layer))).map_err(|error| {
        ImageError::caused(error.class(), "could not look through the base of an image", error)
    })?;
    let environment = tempfile::tempdir_in(layout.dir()).map_err(failed)?;
    for layer in of(LayerKind::Environment) {
        write_metadata(tar_of(layout, layer).map_err(failed)?, environment.path()).map_err(failed)?;
    }
    let mut onnxruntime = None;
    for layer in of(LayerKind::Engine) {
        onnxruntime =
            onnxruntime.or(version_of_onnxruntime(tar_of(layout, layer).map_err(failed)?).map_err(failed)?);
    }
    let name = named(image);
    let base_image = base_of(image);
    let contents = Contents {
        name,
        digest: &image.digest,
        release,
        base: Some(&base),
        base_reference: base_image.as_ref().map(|base| (base.name.as_str(), &base.digest)),
        environment: of(LayerKind::Environment).next().map(|_| environment.path()),
        scorer: of(LayerKind::Scorer).next().map(|_| version),
        onnxruntime: onnxruntime.as_deref(),
        version,
    };
    attest::sbom(&contents).map_err(failed)
}

fn provenance(image: &Image, release: &Release, environment: Option<&Digest>, version: &str) -> Vec<u8> {
    let base = base_of(image);
    let layers = image.layers.iter().filter(|layer| layer.kind != LayerKind::Base);
    let materials: Vec<Material> = layers
        .map(|layer| Material { name: format!("layer {}", layer.kind.as_str()), digest: layer.digest })
        .collect();
    attest::provenance(&Made {
        name: named(image),
        digest: &image.digest,
        release: &release.digest(),
        base: base.as_ref(),
        environment,
        materials: &materials,
        version,
        finished: None,
    })
}

fn named(image: &Image) -> &str {
    image.reference.split('@').next().unwrap_or_default()
}

fn base_of(image: &Image) -> Option<Material> {
    let base: Reference = image.base.as_ref()?.parse().ok()?;
    let digest = *base.digest()?;
    Some(Material { name: format!("{}/{}", base.registry(), base.repository()), digest })
}

fn tar_of(layout: &Layout, layer: &ImageLayer) -> io::Result<Box<dyn Read>> {
    unpacked(fs_err::File::open(layout.blob_path(&layer.digest))?)
}

/// The version of the ONNX Runtime in a layer, if that is there: its symbols have it in their own version.
fn version_of_onnxruntime(layer: impl Read) -> io::Result<Option<String>> {
    for entry in Archive::new(layer).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if format!("/{}", path.display()) == ONNXRUNTIME {
            return Ok(Some(symbol_version(&mut entry)?.unwrap_or_else(|| "unknown".to_owned())));
        }
    }
    Ok(None)
}

/// Of `VERS_1.20.1`, a string of its own in a library.
fn symbol_version(library: &mut impl Read) -> io::Result<Option<String>> {
    const BEFORE: &[u8] = b"\0VERS_";
    const LONGEST: usize = 32;
    let mut window = Vec::new();
    let mut chunk = vec![0; 128 * 1024];
    loop {
        let read = library.read(&mut chunk)?;
        window.extend_from_slice(&chunk[..read]);
        for start in
            window.windows(BEFORE.len()).enumerate().filter(|(_, own)| *own == BEFORE).map(|(at, _)| at)
        {
            let rest = &window[start + BEFORE.len()..];
            let text = rest.split(|byte| *byte == 0).next().unwrap_or_default();
            // The end of it may be in the next chunk.
            if text.len() < rest.len() && (1..LONGEST).contains(&text.len()) {
                return Ok(String::from_utf8(text.to_vec()).ok());
            }
        }
        if read == 0 {
            return Ok(None);
        }
        window.drain(..window.len().saturating_sub(BEFORE.len() + LONGEST));
    }
}

/// Writes what Python distributions of an environment layer say of themselves, and nothing else of it, below `to`.
fn write_metadata(layer: impl Read, to: &Path) -> io::Result<()> {
    for entry in Archive::new(layer).entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        let Ok(inner) = path.strip_prefix(ENVIRONMENT) else { continue };
        let describes = inner.file_name().is_some_and(|name| name == "METADATA")
            && inner.parent().and_then(Path::extension).is_some_and(|end| end == "dist-info");
        if !describes || !inner.components().all(|part| matches!(part, Component::Normal(_))) {
            continue;
        }
        let place = to.join(inner);
        fs_err::create_dir_all(place.parent().unwrap_or(to))?;
        let mut file = fs_err::File::create(place)?;
        io::copy(&mut entry.take(LARGEST_METADATA), &mut file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_tells_its_version_wherever_it_stands() {
        for before in [0, 1, 128 * 1024 - 3, 300_000] {
            let library = [vec![7; before], b"\0VERS_\0VERS_1.20.1\0more".to_vec()].concat();
            assert_eq!(
                symbol_version(&mut library.as_slice()).unwrap().as_deref(),
                Some("1.20.1"),
                "{before}"
            );
        }
        assert_eq!(symbol_version(&mut &b"\0VERS_1.20"[..]).unwrap(), None);
    }

    #[test]
    fn of_an_environment_only_what_describes_it_is_written() {
        let mut tar = tar::Builder::new(Vec::new());
        let site = format!("{ENVIRONMENT}/lib/python3.11/site-packages");
        for path in [
            format!("{site}/numpy-2.0.dist-info/METADATA"),
            format!("{site}/numpy/METADATA"),
            format!("{site}/numpy-2.0.dist-info/RECORD"),
            "etc/x.dist-info/METADATA".to_owned(),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(4);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, &b"Name"[..]).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        write_metadata(&tar.into_inner().unwrap()[..], folder.path()).unwrap();
        let packages = folder.path().join("lib/python3.11/site-packages");
        let found: Vec<_> = fs_err::read_dir(&packages).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(found, [packages.join("numpy-2.0.dist-info")]);
        assert_eq!(fs_err::read_dir(&found[0]).unwrap().count(), 1);
    }
}
