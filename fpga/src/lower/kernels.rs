//! The text of the kernels in `kernels/`, as a device is given it.

const POCL: &str = "Portable Computing Language";

/// The text of the kernels: one program, in the order of their names.
pub fn source() -> String {
    [
        include_str!("../../kernels/abi.cl"),
        include_str!("../../kernels/channels.cl"),
        include_str!("../../kernels/conv.cl"),
        include_str!("../../kernels/elementwise.cl"),
        include_str!("../../kernels/integer.cl"),
        include_str!("../../kernels/layout.cl"),
        include_str!("../../kernels/pool.cl"),
    ]
    .join("\n")
}

/// The same for a device of that platform. PoCL's is this processor: where it has an instruction for four products of
/// codes, that is used.
pub fn source_on(platform: &str) -> String {
    let mut text = source();
    if platform == POCL && has_dot_instruction() {
        text.insert_str(0, "#define DOT_IS_AN_INSTRUCTION\n");
    }
    text
}

#[cfg(target_arch = "x86_64")]
fn has_dot_instruction() -> bool {
    std::arch::is_x86_feature_detected!("avx512vnni")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_dot_instruction() -> bool {
    false
}
