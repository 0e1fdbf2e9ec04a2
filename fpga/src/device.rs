//! A device as its driver describes it.

use serde::{Deserialize, Serialize};

use crate::bitstream::DeviceClass;

/// One device of one platform. What is found says nothing of whether the device works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub platform: String,
    /// The platform's version, as in `OpenCL 3.0 PoCL 3.1 …`.
    pub platform_version: String,
    /// The driver's version.
    pub driver: String,
    pub name: String,
    /// Which one it is among those of one platform with the same name, from zero.
    pub index: u32,
    /// `CPU`, `GPU`, `ACCELERATOR` or `CUSTOM`.
    pub kind: String,
    pub class: DeviceClass,
    /// Global memory in bytes.
    pub memory: u64,
    /// The largest piece of memory that it gives at once, in bytes.
    pub largest_buffer: u64,
    /// Work items that it runs at once.
    pub units: u32,
}

impl Device {
    /// What tells it from all other devices of this machine, also after a restart.
    pub fn id(&self) -> DeviceId {
        DeviceId { platform: self.platform.clone(), name: self.name.clone(), index: self.index }
    }
}

/// The class of a device. Whatever is not an accelerator, or says that it emulates one, is emulation; a driver may be
/// told to emulate by its environment alone, which `told_to_emulate` says.
pub(crate) fn class(kind: &str, platform: &str, name: &str, told_to_emulate: bool) -> DeviceClass {
    let emulates = |text: &str| text.to_ascii_lowercase().contains("emulat");
    if kind == "ACCELERATOR" && !emulates(platform) && !emulates(name) && !told_to_emulate {
        DeviceClass::Hardware
    } else {
        DeviceClass::Emulation
    }
}

/// The name of a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeviceId {
    pub platform: String,
    pub name: String,
    pub index: u32,
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} / {} / {}", self.platform, self.name, self.index)
    }
}

/// The names of devices, for messages.
pub(crate) fn names<'a>(devices: impl Iterator<Item = &'a Device>) -> String {
    let names: Vec<String> = devices.map(|device| device.id().to_string()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Which devices may be taken. What is not said is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceFilter {
    /// A part of the platform's name, in any case.
    #[serde(default)]
    pub platform: Option<String>,
    /// A part of the device's name, in any case.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub index: Option<u32>,
    #[serde(default)]
    pub class: Option<DeviceClass>,
}

impl DeviceFilter {
    pub fn admits(&self, device: &Device) -> bool {
        let part = |part: &Option<String>, of: &str| {
            part.as_ref().is_none_or(|part| of.to_lowercase().contains(&part.to_lowercase()))
        };
        part(&self.platform, &device.platform)
            && part(&self.name, &device.name)
            && self.index.is_none_or(|index| index == device.index)
            && self.class.is_none_or(|class| class == device.class)
    }
}

impl std::fmt::Display for DeviceFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut wants = Vec::new();
        wants.extend(self.platform.iter().map(|platform| format!("platform `{platform}`")));
        wants.extend(self.name.iter().map(|name| format!("name `{name}`")));
        wants.extend(self.index.iter().map(|index| format!("index {index}")));
        wants.extend(self.class.iter().map(|class| format!("class {}", class.as_str())));
        f.write_str(&if wants.is_empty() { "any device".to_owned() } else { wants.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_accelerator_that_emulates_nothing_is_hardware() {
        let intel = "Intel(R) FPGA SDK for OpenCL(TM)";
        assert_eq!(class("ACCELERATOR", intel, "pac_a10", false), DeviceClass::Hardware);
        assert_eq!(class("ACCELERATOR", "Xilinx", "xilinx_u250", true), DeviceClass::Emulation);
        for (kind, platform, name) in [
            ("CPU", "Portable Computing Language", "pthread"),
            ("ACCELERATOR", "Intel(R) FPGA Emulation Platform for OpenCL(TM)", "x"),
            ("ACCELERATOR", intel, "Intel(R) FPGA Emulation Device"),
            ("GPU", "Any", "x"),
        ] {
            assert_eq!(
                class(kind, platform, name, false),
                DeviceClass::Emulation,
                "{kind} {platform} {name}"
            );
        }
    }
}
