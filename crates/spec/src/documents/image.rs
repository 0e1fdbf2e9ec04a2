//! The `moorline.image.*` properties of a deployment: that images are an input of its model, and how they become one.

use moorline_core::{ColorOrder, ImageInput, ImageLayout, Resize};

/// What all of these properties begin with.
pub(super) const PREFIX: &str = "moorline.image.";
/// A longer side is no size that models take.
const LONGEST_SIDE: u32 = 8192;

/// Takes one of the properties; says what its value should have been.
pub(super) fn take(image: &mut ImageInput, property: &str, value: &str) -> Result<(), &'static str> {
    const SIZE: &str = "a width and a height of 1 to 8192, as in `224x224`";
    let value = value.trim();
    match property {
        "input" if value.is_empty() => return Err("the name of one of the model's inputs"),
        "input" => image.input = Some(value.to_owned()),
        "color" => {
            image.color = match value {
                "rgb" => ColorOrder::Rgb,
                "bgr" => ColorOrder::Bgr,
                "gray" => ColorOrder::Gray,
                _ => return Err("`rgb`, `bgr` or `gray`"),
            }
        }
        "resize" => {
            image.resize = Some(match side(value) {
                Some(side) => Resize::Shorter(side),
                None => Resize::Exact(size(value).ok_or(
                    "the length of the shorter side, as in `256`, or a width and a height, as in `224x224`, each of 1 to 8192",
                )?),
            });
        }
        "crop" => image.crop = Some(size(value).ok_or(SIZE)?),
        "scale" => image.scale = Some(number(value).ok_or("a number, or a fraction such as `1/255`")?),
        "mean" => image.mean = numbers(value).ok_or("one number, or one for every channel, with commas")?,
        "std" => {
            let std = numbers(value).filter(|std| std.iter().all(|value| *value > 0.0));
            image.std = std.ok_or("one number above 0, or one for every channel, with commas")?;
        }
        "layout" => {
            image.layout = Some(match value {
                "nchw" => ImageLayout::Nchw,
                "nhwc" => ImageLayout::Nhwc,
                _ => return Err("`nchw` or `nhwc`"),
            });
        }
        _ => {}
    }
    Ok(())
}

fn side(text: &str) -> Option<u32> {
    text.parse().ok().filter(|side| (1..=LONGEST_SIDE).contains(side))
}

fn size(text: &str) -> Option<[u32; 2]> {
    let (width, height) = text.split_once('x')?;
    Some([side(width.trim())?, side(height.trim())?])
}

/// A number, or one over another.
fn number(text: &str) -> Option<f32> {
    let plain = |text: &str| text.trim().parse::<f32>().ok();
    let value = match text.split_once('/') {
        Some((over, under)) => plain(over)? / plain(under)?,
        None => plain(text)?,
    };
    value.is_finite().then_some(value)
}

fn numbers(text: &str) -> Option<Vec<f32>> {
    text.split(',').map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_property_has_its_values() {
        let mut image = ImageInput::default();
        for (property, value) in [
            ("input", "data"),
            ("color", "bgr"),
            ("resize", "256"),
            ("crop", "224x192"),
            ("scale", "1/255"),
            ("mean", "0.485, 0.456, 0.406"),
            ("std", "0.229"),
            ("layout", "nhwc"),
        ] {
            take(&mut image, property, value).unwrap();
        }
        let expected = ImageInput {
            input: Some("data".to_owned()),
            color: ColorOrder::Bgr,
            resize: Some(Resize::Shorter(256)),
            crop: Some([224, 192]),
            scale: Some(1.0 / 255.0),
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229],
            layout: Some(ImageLayout::Nhwc),
        };
        assert_eq!(image, expected);
        take(&mut image, "resize", "224x192").unwrap();
        assert_eq!(image.resize, Some(Resize::Exact([224, 192])));
        for (property, value) in [
            ("input", ""),
            ("color", "cmyk"),
            ("resize", "0"),
            ("resize", "9000"),
            ("crop", "224"),
            ("scale", "1/0"),
            ("mean", "a,b"),
            ("std", "0"),
            ("layout", "chw"),
        ] {
            assert!(take(&mut image, property, value).is_err(), "{property}: {value}");
        }
    }
}
