//! The `ouzel` binary: hands the process's arguments and streams to the library.

use std::io;

use ouzel::cli::{self, Exit};

/// Requests with their histories are allocated on one thread, kept for minutes and freed on another: what the system's
/// allocator is slowest at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Exit {
    cli::run(std::env::args_os(), &mut io::stdout(), &mut io::stderr())
}
