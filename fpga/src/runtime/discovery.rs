//! Every device of every platform that the OpenCL loader offers in this process.

use std::collections::BTreeMap;

use opencl3::{
    device::{CL_DEVICE_TYPE_ACCELERATOR, CL_DEVICE_TYPE_ALL, CL_DEVICE_TYPE_CPU, CL_DEVICE_TYPE_GPU},
    error_codes::DLOPEN_RUNTIME_LOAD_FAILED,
    platform::get_platforms,
    types::cl_device_id,
};

use crate::device::{Device, DeviceId, class, names};

use super::{RuntimeError, opencl::Failure};

/// No platform of this machine offers a device: what the loader, and a platform, say instead of an empty list.
const NO_PLATFORM: i32 = -1001;
const NO_DEVICE: i32 = -1;

/// The devices, and the driver's handles of them. `told_to_emulate` says that the environment makes drivers of hardware
/// emulate it.
pub(super) fn discover(told_to_emulate: bool) -> Result<Vec<(Device, cl_device_id)>, RuntimeError> {
    let platforms = match get_platforms() {
        Err(error) if error.0 == DLOPEN_RUNTIME_LOAD_FAILED => return Err(RuntimeError::NoOpenCl),
        Err(error) if error.0 == NO_PLATFORM => return Ok(Vec::new()),
        platforms => platforms.map_err(Failure::of("clGetPlatformIDs"))?,
    };
    let mut found = Vec::new();
    for platform in platforms {
        let ids = match platform.get_devices(CL_DEVICE_TYPE_ALL) {
            // A platform without a device is no reason to hide those of the others.
            Err(error) if error.0 == NO_DEVICE => continue,
            ids => ids.map_err(Failure::of("clGetDeviceIDs"))?,
        };
        let name = platform.name().map_err(Failure::of("clGetPlatformInfo"))?;
        let version = platform.version().map_err(Failure::of("clGetPlatformInfo"))?;
        let mut seen = BTreeMap::new();
        for id in ids {
            let mut device = describe(&name, &version, id, told_to_emulate)
                .map_err(|error| Failure { call: "clGetDeviceInfo", code: error })?;
            let index = seen.entry(device.name.clone()).or_insert(0);
            device.index = *index;
            *index += 1;
            found.push((device, id));
        }
    }
    Ok(found)
}

fn describe(platform: &str, version: &str, id: cl_device_id, told_to_emulate: bool) -> Result<Device, i32> {
    let device = opencl3::device::Device::new(id);
    let code = |error: opencl3::error_codes::ClError| error.0;
    let kind = device.dev_type().map_err(code)?;
    let kind = match kind {
        _ if kind & CL_DEVICE_TYPE_ACCELERATOR != 0 => "ACCELERATOR",
        _ if kind & CL_DEVICE_TYPE_GPU != 0 => "GPU",
        _ if kind & CL_DEVICE_TYPE_CPU != 0 => "CPU",
        _ => "CUSTOM",
    };
    let name = device.name().map_err(code)?;
    Ok(Device {
        class: class(kind, platform, &name, told_to_emulate),
        platform: platform.to_owned(),
        platform_version: version.to_owned(),
        driver: device.driver_version().map_err(code)?,
        name,
        index: 0,
        kind: kind.to_owned(),
        memory: device.global_mem_size().map_err(code)?,
        largest_buffer: device.max_mem_alloc_size().map_err(code)?,
        units: device.max_compute_units().map_err(code)?,
    })
}

/// One device by its name.
pub(super) fn find(wanted: &DeviceId, told_to_emulate: bool) -> Result<(Device, cl_device_id), RuntimeError> {
    let mut devices = discover(told_to_emulate)?;
    if let Some(at) = devices.iter().position(|(device, _)| device.id() == *wanted) {
        return Ok(devices.swap_remove(at));
    }
    let found = names(devices.iter().map(|(device, _)| device));
    Err(RuntimeError::NoDevice { device: wanted.clone(), found })
}
