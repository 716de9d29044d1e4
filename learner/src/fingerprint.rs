//! What decides the bits of a run besides its log and its configuration.

/// The libtorch that tch 0.26 is built for.
pub const LIBTORCH: &str = "2.13.0";

/// The instruction set libtorch chooses on this machine, by its own names. `ATEN_CPU_CAPABILITY` overrides it,
/// as it does for libtorch.
#[must_use]
pub fn cpu_capability() -> String {
    if let Ok(forced) = std::env::var("ATEN_CPU_CAPABILITY") {
        return forced.to_uppercase();
    }
    detected().to_owned()
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
