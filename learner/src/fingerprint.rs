//! What else decides the bits of a run: libtorch's version and the instruction set.

/// The libtorch that tch 0.26 is built for.
pub const LIBTORCH: &str = "2.13.0";

/// The instruction set that libtorch chooses on this machine, followed by `+BF16` where the processor multiplies bf16.
///
/// The environment variable `ATEN_CPU_CAPABILITY` overrides the instruction set, as it does for libtorch.
#[must_use]
pub fn cpu_capability() -> String {
    let chosen = match std::env::var("ATEN_CPU_CAPABILITY") {
        Ok(forced) => forced.to_uppercase(),
        Err(_) => detected().to_owned(),
    };
    let units = if ouzel_model::has_bf16_units() {
        "+BF16"
    } else {
        ""
    };
    chosen + units
}

#[cfg(target_arch = "x86_64")]
fn detected() -> &'static str {
    let avx512 = std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512vl")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512dq");
    if avx512 {
        "AVX512"
    } else if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        "AVX2"
    } else {
        "DEFAULT"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detected() -> &'static str {
    std::env::consts::ARCH
}
