//! The `ouzel` binary: hands the process's arguments and streams to the library.

use std::io;

use ouzel::cli::{self, Exit};

fn main() -> Exit {
    cli::run(std::env::args_os(), &mut io::stdout(), &mut io::stderr())
}
