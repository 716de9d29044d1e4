//! Tells the linker where libtorch lies, so that every binary and test finds it at run time without `LD_LIBRARY_PATH`.
//!
//! A run path applies only to the package whose build script asks for it, so each package with programs or tests that
//! reach tch names this one file as its build script. It is also the place that notices a missing libtorch: nothing has
//! to be compiled before it, so it speaks up before torch-sys starts on its C++.

use std::env;
use std::path::PathBuf;

fn main() {
    for variable in ["LIBTORCH", "LIBTORCH_LIB", "LIBTORCH_USE_PYTORCH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    // With PyTorch's own library, or one that the system linker knows, there is nothing to add.
    if env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
        return;
    }
    let Some(root) = env::var_os("LIBTORCH_LIB").or_else(|| env::var_os("LIBTORCH")) else {
        return;
    };
    let library = PathBuf::from(root).join("lib");
    let marker = library.join("libtorch.so");
    println!("cargo::rerun-if-changed={}", marker.display());
    if marker.exists() {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", library.display());
    } else {
        println!(
            "cargo::error=there is no libtorch in {}: run `make libtorch` once, or set LIBTORCH to a libtorch 2.13.0",
            library.display()
        );
    }
}
