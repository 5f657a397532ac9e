//! libFuzzer over one of the targets: `FUZZ_TARGET=wire fuzz CORPUS… -max_total_time=60`.
//! `.ci/fuzz` builds it with coverage of this workspace's code, which libFuzzer is guided by.
#![no_main]

use std::sync::LazyLock;

use brigade_fuzz::TARGETS;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    let target = TARGETS.iter().find(|target| target.0 == name);
    target.unwrap_or_else(|| panic!("no target is called {name}")).1
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET(bytes));
