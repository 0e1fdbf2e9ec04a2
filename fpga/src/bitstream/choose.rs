//! Which image a device is given: the one made for exactly this device under exactly this driver, or none. A driver
//! that is handed anything else answers with an error code at best, and by ending the process at worst.

use crate::device::Device;

use super::{BitstreamError, Image, ImageTarget, Manifest};

impl ImageTarget {
    pub fn fits(&self, device: &Device) -> bool {
        match self {
            Self::Device { platform, driver, device: name } => {
                *platform == device.platform && *driver == device.driver && *name == device.name
            }
            Self::Board { platform, board, interface_uuid: _ } => {
                *platform == device.platform && *board == device.name
            }
        }
    }
}

impl std::fmt::Display for ImageTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device { platform, driver, device } => {
                write!(f, "device `{device}` (platform `{platform}`, driver `{driver}`)")
            }
            Self::Board { platform, board, interface_uuid } => {
                write!(f, "board `{board}` (platform `{platform}`, interface {interface_uuid})")
            }
        }
    }
}

impl Manifest {
    /// The image for a device. An image for hardware is never given to emulation, nor the other way round.
    pub fn image_for(&self, device: &Device) -> Result<&Image, BitstreamError> {
        let fits = |image: &&Image| image.class == device.class && image.target.fits(device);
        self.images.iter().find(fits).ok_or_else(|| {
            let images: Vec<String> = self.images.iter().map(|image| image.target.to_string()).collect();
            BitstreamError::NoImage {
                platform: device.platform.clone(),
                driver: device.driver.clone(),
                device: device.name.clone(),
                images: images.join(", "),
            }
        })
    }
}
