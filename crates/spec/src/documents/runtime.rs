//! The `moorline.*` properties of a deployment: what Azure ML has no word for, where Azure ML takes any text.

use std::num::NonZeroUsize;

use moorline_core::{BatchSettings, EngineName, EngineSettings, Golden, ImageInput, Name};

use super::{Tags, fpga::NUMERICS, image};
use crate::{
    fields::nearest,
    reader::{Finding, Reader},
    reference::Reference,
    yaml::{Content, Node, shown},
};

/// What all of these properties begin with.
const PREFIX: &str = "moorline.";
const KEYS: [&str; 19] = [
    "moorline.compute",
    "moorline.engine",
    "moorline.sessions",
    "moorline.threads",
    "moorline.max_batch_size",
    "moorline.max_batch_delay_us",
    "moorline.worker_count",
    "moorline.scale_down_delay",
    "moorline.fpga.bitstream",
    "moorline.fpga.numerics",
    "moorline.edge.golden",
    "moorline.image.input",
    "moorline.image.color",
    "moorline.image.resize",
    "moorline.image.crop",
    "moorline.image.scale",
    "moorline.image.mean",
    "moorline.image.std",
    "moorline.image.layout",
];

/// What the properties of a deployment say; checked when the document is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuntimeSettings {
    /// `moorline.compute`
    pub compute: Option<Name>,
    /// `moorline.engine`, `moorline.sessions`, `moorline.threads`
    pub engine: EngineSettings,
    /// `moorline.max_batch_size`, `moorline.max_batch_delay_us`
    pub batching: Option<BatchSettings>,
    /// `moorline.worker_count`
    pub worker_count: Option<NonZeroUsize>,
    /// `moorline.scale_down_delay`, seconds
    pub scale_down_delay: Option<u32>,
    /// `moorline.fpga.bitstream`
    pub bitstream: Option<Reference>,
    /// `moorline.fpga.numerics`
    pub numerics: Option<String>,
    /// `moorline.edge.golden`: JSON
    pub golden: Option<Golden>,
    /// `moorline.image.…`
    pub image: Option<ImageInput>,
}

/// Settings on the way: a delay means nothing before a size is known.
#[derive(Default)]
struct Draft {
    settings: RuntimeSettings,
    max_size: Option<NonZeroUsize>,
    max_delay_us: Option<u64>,
}

impl Draft {
    /// Takes one property; says what its value should have been.
    fn take(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        const COUNT: &str = "an integer of at least 1";
        const TIME: &str = "an integer of at least 0";
        let count = || value.trim().parse::<NonZeroUsize>().map(Some).map_err(|_| COUNT);
        match key {
            "moorline.compute" => {
                self.settings.compute = Some(value.parse().map_err(|_| "a compute's name")?);
            }
            "moorline.engine" => {
                self.settings.engine.name = Some(match value {
                    "ort" => EngineName::Ort,
                    "tract" => EngineName::Tract,
                    _ => return Err("`ort` or `tract`"),
                });
            }
            "moorline.sessions" => self.settings.engine.sessions = count()?,
            "moorline.threads" => self.settings.engine.threads = count()?,
            "moorline.max_batch_size" => self.max_size = count()?,
            "moorline.max_batch_delay_us" => {
                self.max_delay_us = Some(value.trim().parse().map_err(|_| TIME)?);
            }
            "moorline.worker_count" => self.settings.worker_count = count()?,
            "moorline.scale_down_delay" => {
                self.settings.scale_down_delay = Some(value.trim().parse().map_err(|_| TIME)?);
            }
            "moorline.fpga.bitstream" => {
                let expected = "a registered bitstream, such as `azureml:convnet:3`";
                self.settings.bitstream = Some(value.parse().map_err(|_| expected)?);
            }
            "moorline.fpga.numerics" => {
                if !NUMERICS.contains(&value) {
                    return Err("`f32-fma-v1`, `i8-rne-v1` or `bfp9-v1`");
                }
                self.settings.numerics = Some(value.to_owned());
            }
            "moorline.edge.golden" => {
                let expected = "JSON with `request` and `answer`, and maybe `tolerance`";
                self.settings.golden = Some(serde_json::from_str(value).map_err(|_| expected)?);
            }
            _ => {
                if let Some(property) = key.strip_prefix(image::PREFIX) {
                    image::take(self.settings.image.get_or_insert_default(), property, value)?;
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> RuntimeSettings {
        let batching = self.max_size.map(|max_size| BatchSettings {
            max_size,
            max_delay_us: self.max_delay_us.unwrap_or(0),
            preferred_sizes: Vec::new(),
        });
        RuntimeSettings { batching, ..self.settings }
    }
}

impl RuntimeSettings {
    /// Of properties that were checked; what would not have passed is left out.
    pub(super) fn of(properties: &Tags) -> Self {
        let mut draft = Draft::default();
        for (key, value) in properties {
            // Checked when the document was read.
            let _ = draft.take(key, value);
        }
        draft.finish()
    }
}

/// Reports the `moorline.*` properties that mean nothing.
pub(super) fn check(reader: &mut Reader, node: &Node) {
    let Content::Map(entries) = &node.content else { return };
    let mut draft = Draft::default();
    for entry in entries.iter().filter(|entry| entry.key.starts_with(PREFIX)) {
        reader.at_key(&entry.key, |reader| {
            if !KEYS.contains(&entry.key.as_str()) {
                let finding =
                    Finding::error(entry.place, format!("unknown property `{}`", shown(&entry.key)));
                let near = nearest(&entry.key, &KEYS);
                reader.report(match near {
                    Some(near) => finding.hint(format!("did you mean `{near}`?")),
                    None => finding.hint(format!("those of `{PREFIX}` are {}", KEYS.join(", "))),
                });
                return;
            }
            let Some(text) = entry.value.scalar_text() else { return };
            if let Err(expected) = draft.take(&entry.key, &text) {
                reader.mismatch(&entry.value, expected);
            }
        });
    }
    if draft.max_delay_us.is_some()
        && draft.max_size.is_none()
        && let Some(entry) = entries.iter().find(|entry| entry.key == "moorline.max_batch_delay_us")
    {
        let message = "`moorline.max_batch_delay_us` needs `moorline.max_batch_size`";
        reader.at_key(&entry.key, |reader| reader.error(entry.place, message));
    }
}
