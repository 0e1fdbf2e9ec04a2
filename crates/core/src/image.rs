//! How an image becomes what a model takes: declared in a release, so that nobody has to write a script for it.

use serde::{Deserialize, Serialize};

/// From the bytes of a JPEG or a PNG to one row of a model's input: decoded, resized, cropped about its middle, and each
/// value `x` of 0 to 255 made `(x · scale - mean) / std`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageInput {
    /// The input that it becomes; the model's only one, where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    pub color: ColorOrder,
    /// Left out: to the size that the model takes, where that is fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// Width and height of what is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<[u32; 2]>,
    /// Left out: 1/255, and 1 for a model that takes bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// One for every channel, or one for all; 0 where it is left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mean: Vec<f32>,
    /// One for every channel, or one for all; 1 where it is left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub std: Vec<f32>,
    /// Left out: by where the model's input has as many elements as the image has channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<ImageLayout>,
}

/// The channels, in the order in which a model takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColorOrder {
    #[default]
    Rgb,
    Bgr,
    Gray,
}

impl ColorOrder {
    pub const fn channels(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Gray => 1,
        }
    }
}

/// To which size an image is brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// The shorter side gets this length, and the other one keeps its proportion to it.
    Shorter(u32),
    /// Width and height, whatever the proportions were.
    Exact([u32; 2]),
}

/// Where the channels are among a tensor's dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageLayout {
    /// Batch, channels, height, width.
    Nchw,
    /// Batch, height, width, channels.
    Nhwc,
}
