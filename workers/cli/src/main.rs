use std::process::ExitCode;

fn main() -> ExitCode {
    brigade_cli::main()
}
