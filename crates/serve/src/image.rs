//! An image in a request becomes one row of the model's input, as its release declares.
//!
//! Decoding is bound in pixels and memory, and runs on threads of its own, as many at a time as the machine has cores.

use std::{io::Cursor, num::NonZeroUsize, sync::Arc};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, imageops::FilterType};
use moorline_core::{
    ColorOrder, DataType, Dim, ErrorClass, ImageInput, ImageLayout, Resize, Signature, Tensor, TensorSpec,
    Tensors, ValueKind,
};
use thiserror::Error;
use tokio::sync::Semaphore;

/// The longest side of an image that is decoded.
const LONGEST_SIDE: u32 = 16_384;
/// Memory that decoding one image may take.
const DECODED_BYTES: u64 = 256 << 20;

/// Why a release's declaration does not fit its model.
#[derive(Debug, Error)]
#[error("the release declares that images are an input, and {0}")]
pub struct ImageInputError(String);

/// Why an image was not scored.
#[derive(Debug, Error)]
pub(crate) enum ImageError {
    #[error("the body is not a JPEG or PNG image that can be decoded: {0}")]
    Undecodable(String),
    #[error(
        "the image is larger than {LONGEST_SIDE} pixels on a side, or takes more than {} MiB once it is decoded or resized",
        DECODED_BYTES >> 20
    )]
    TooLarge,
    #[error(
        "the image is {width} x {height} pixels after it is resized, and `crop` is to leave {crop_width} x {crop_height}"
    )]
    TooSmall { width: u32, height: u32, crop_width: u32, crop_height: u32 },
    #[error("the image could not be prepared: {0}")]
    Broken(String),
}

impl ImageError {
    pub(crate) const fn class(&self) -> ErrorClass {
        match self {
            Self::Undecodable(_) | Self::TooSmall { .. } => ErrorClass::InvalidInput,
            Self::TooLarge => ErrorClass::TooLarge,
            Self::Broken(_) => ErrorClass::Internal,
        }
    }
}

/// What is done to every image.
#[derive(Clone, Debug)]
pub struct ImagePreparation {
    input: Arc<str>,
    color: ColorOrder,
    resize: Option<Resize>,
    crop: Option<[u32; 2]>,
    layout: ImageLayout,
    /// `None` where the model takes bytes as they are.
    normal: Option<Normal>,
    turns: Arc<Semaphore>,
}

/// `x · factor + offset`, by channel.
#[derive(Clone, Debug)]
struct Normal {
    factor: Vec<f32>,
    offset: Vec<f32>,
}

impl ImagePreparation {
    /// Checks the declaration against the model.
    pub fn new(declared: &ImageInput, signature: &Signature) -> Result<Self, ImageInputError> {
        let refused = |text: String| Err(ImageInputError(text));
        let spec = match (&declared.input, &signature.inputs[..]) {
            (None, [only]) => only,
            (None, _) => return refused("does not say which of the model's inputs they are".to_owned()),
            (Some(name), [only]) if *only.name == **name => only,
            (Some(name), [only]) => {
                return refused(format!("the model has no input `{name}`, but `{}`", only.name));
            }
            (Some(_), _) => {
                return refused("the model takes more than one input, and an image is one".to_owned());
            }
        };
        let dims = match &spec.shape {
            Some(shape) if spec.kind == ValueKind::Tensor && shape.len() == 4 => &shape[..],
            _ => {
                return refused(format!("the model's input `{}` is not a tensor of 4 dimensions", spec.name));
            }
        };
        let channels = declared.color.channels();
        let Some(layout) = declared.layout.or_else(|| layout_of(dims, channels)) else {
            return refused(format!(
                "neither the second nor the last dimension of the model's input `{}` is of {channels} channels; say `layout`, or another `color`",
                spec.name
            ));
        };
        let (of_channels, height, width) = match layout {
            ImageLayout::Nchw => (&dims[1], &dims[2], &dims[3]),
            ImageLayout::Nhwc => (&dims[3], &dims[1], &dims[2]),
        };
        if !fits(of_channels, channels) {
            return refused(format!("its {channels} channels do not fit the model's input `{}`", spec.name));
        }
        let fixed = match (fixed(width), fixed(height)) {
            (Some(width), Some(height)) => Some([width, height]),
            _ => None,
        };
        let resize = match (declared.resize, declared.crop) {
            (None, None) => fixed.map(Resize::Exact),
            (resize, _) => resize,
        };
        let made = declared.crop.or(match resize {
            Some(Resize::Exact(size)) => Some(size),
            _ => None,
        });
        if let Some([width_made, height_made]) = made
            && !(fits(width, width_made as usize) && fits(height, height_made as usize))
        {
            return refused(format!(
                "makes them {width_made} x {height_made}, which the model's input `{}` does not take",
                spec.name
            ));
        }
        let normal = normal(declared, spec, channels)?;
        Ok(Self {
            input: Arc::clone(&spec.name),
            color: declared.color,
            resize,
            crop: declared.crop,
            layout,
            normal,
            turns: Arc::new(Semaphore::new(
                std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            )),
        })
    }

    /// Makes the model's input of an image.
    pub(crate) async fn prepare(&self, body: bytes::Bytes) -> Result<Tensors, ImageError> {
        let broken = |error: &dyn std::fmt::Display| ImageError::Broken(error.to_string());
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|error| broken(&error))?;
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let tensor = this.tensor(&body);
            drop(turn);
            tensor
        });
        let tensor = done.await.map_err(|error| broken(&error))??;
        let mut inputs = Tensors::with_capacity(1);
        inputs.push(Arc::clone(&self.input), tensor);
        Ok(inputs)
    }

    fn tensor(&self, body: &[u8]) -> Result<Tensor, ImageError> {
        let image = cropped(resized(decode(body)?, self.resize)?, self.crop)?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        let channels = self.color.channels();
        let (mut pixels, order) = match self.color {
            ColorOrder::Gray => (gray(image), [0, 0, 0]),
            ColorOrder::Rgb => (image.into_rgb8().into_raw(), [0, 1, 2]),
            ColorOrder::Bgr => (image.into_rgb8().into_raw(), [2, 1, 0]),
        };
        let shape = match self.layout {
            ImageLayout::Nchw => vec![1, channels, height, width],
            ImageLayout::Nhwc => vec![1, height, width, channels],
        };
        // Where the value of each place in the tensor comes from: the layouts differ in nothing else.
        let area = width * height;
        let place = |pixel: usize, channel: usize| match self.layout {
            ImageLayout::Nchw => channel * area + pixel,
            ImageLayout::Nhwc => pixel * channels + channel,
        };
        let data = if let Some(Normal { factor, offset }) = &self.normal {
            let mut floats = vec![0.0_f32; pixels.len()];
            for channel in 0..channels {
                let (factor, offset, from) = (factor[channel], offset[channel], order[channel]);
                for pixel in 0..area {
                    let value = f32::from(pixels[pixel * channels + from]);
                    floats[place(pixel, channel)] = value.mul_add(factor, offset);
                }
            }
            floats.into()
        } else {
            let from = pixels.clone();
            for channel in 0..channels {
                for pixel in 0..area {
                    pixels[place(pixel, channel)] = from[pixel * channels + order[channel]];
                }
            }
            pixels.into()
        };
        Tensor::new(shape, data).map_err(|error| ImageError::Broken(error.to_string()))
    }
}

/// The layout whose channels are where the model has as many.
fn layout_of(dims: &[Dim], channels: usize) -> Option<ImageLayout> {
    let is = |dim: &Dim| *dim == Dim::Fixed(channels);
    match (is(&dims[1]), is(&dims[3])) {
        (true, false) => Some(ImageLayout::Nchw),
        (false, true) => Some(ImageLayout::Nhwc),
        _ => None,
    }
}

fn fits(dim: &Dim, size: usize) -> bool {
    match dim {
        Dim::Fixed(own) => *own == size,
        Dim::Dynamic(_) => true,
    }
}

fn fixed(dim: &Dim) -> Option<u32> {
    match dim {
        Dim::Fixed(size) => u32::try_from(*size).ok().filter(|size| *size > 0),
        Dim::Dynamic(_) => None,
    }
}

fn normal(
    declared: &ImageInput,
    spec: &TensorSpec,
    channels: usize,
) -> Result<Option<Normal>, ImageInputError> {
    let plain = declared.scale.is_none() && declared.mean.is_empty() && declared.std.is_empty();
    match spec.data_type {
        DataType::U8 if plain => return Ok(None),
        DataType::U8 => {
            let text = format!(
                "the model's input `{}` takes bytes, which are not normalised: leave out `scale`, `mean` and `std`",
                spec.name
            );
            return Err(ImageInputError(text));
        }
        DataType::F32 => {}
        other => {
            let text = format!("the model's input `{}` is of {other}, which images are not", spec.name);
            return Err(ImageInputError(text));
        }
    }
    let by_channel = |values: &[f32], name: &str, usual: f32| match values {
        [] => Ok(vec![usual; channels]),
        [one] => Ok(vec![*one; channels]),
        all if all.len() == channels => Ok(all.to_vec()),
        all => Err(ImageInputError(format!("`{name}` has {} values for {channels} channels", all.len()))),
    };
    let mean = by_channel(&declared.mean, "mean", 0.0)?;
    let std = by_channel(&declared.std, "std", 1.0)?;
    let scale = declared.scale.unwrap_or(1.0 / 255.0);
    let factor: Vec<f32> = std.iter().map(|std| scale / std).collect();
    let offset: Vec<f32> = mean.iter().zip(&std).map(|(mean, std)| -mean / std).collect();
    if factor.iter().chain(&offset).any(|value| !value.is_finite()) {
        return Err(ImageInputError("`scale`, `mean` and `std` make no finite numbers".to_owned()));
    }
    Ok(Some(Normal { factor, offset }))
}

fn decode(body: &[u8]) -> Result<DynamicImage, ImageError> {
    let undecodable = |error: image::ImageError| match error {
        image::ImageError::Limits(_) => ImageError::TooLarge,
        error => ImageError::Undecodable(error.to_string()),
    };
    let mut reader = ImageReader::new(Cursor::new(body))
        .with_guessed_format()
        .map_err(|error| ImageError::Undecodable(error.to_string()))?;
    if !matches!(reader.format(), Some(ImageFormat::Jpeg | ImageFormat::Png)) {
        return Err(ImageError::Undecodable("it begins as neither does".to_owned()));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    limits.max_alloc = Some(DECODED_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(undecodable)?;
    if decoder.total_bytes() > DECODED_BYTES {
        return Err(ImageError::TooLarge);
    }
    DynamicImage::from_decoder(decoder).map_err(undecodable)
}

fn resized(image: DynamicImage, to: Option<Resize>) -> Result<DynamicImage, ImageError> {
    let [width, height] = match to {
        None => return Ok(image),
        Some(Resize::Exact(size)) => size,
        Some(Resize::Shorter(side)) => {
            let (width, height) = (u64::from(image.width()), u64::from(image.height()));
            let (side, shorter) = (u64::from(side), width.min(height).max(1));
            // Cut off, as the transforms do that models are trained with.
            [width, height].map(|length| u32::try_from(length * side / shorter).unwrap_or(u32::MAX).max(1))
        }
    };
    if (image.width(), image.height()) == (width, height) {
        return Ok(image);
    }
    if u64::from(width) * u64::from(height) * 4 > DECODED_BYTES {
        return Err(ImageError::TooLarge);
    }
    Ok(image.resize_exact(width, height, FilterType::Triangle))
}

/// Brightness by ITU-R BT.601, as Pillow and OpenCV have it, and so the images that models are trained with.
fn gray(image: DynamicImage) -> Vec<u8> {
    if !image.color().has_color() {
        return image.into_luma8().into_raw();
    }
    let weighted = |[red, green, blue]: [u8; 3]| {
        let sum = 19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue);
        ((sum + (1 << 15)) >> 16) as u8
    };
    image.into_rgb8().pixels().map(|pixel| weighted(pixel.0)).collect()
}

/// The middle of an image.
fn cropped(image: DynamicImage, to: Option<[u32; 2]>) -> Result<DynamicImage, ImageError> {
    let Some([crop_width, crop_height]) = to else { return Ok(image) };
    let (width, height) = (image.width(), image.height());
    if crop_width > width || crop_height > height {
        return Err(ImageError::TooSmall { width, height, crop_width, crop_height });
    }
    // Half a pixel is rounded to the even one, as those transforms do.
    let half = |length: u32, crop: u32| (f64::from(length - crop) / 2.0).round_ties_even() as u32;
    Ok(image.crop_imm(half(width, crop_width), half(height, crop_height), crop_width, crop_height))
}
