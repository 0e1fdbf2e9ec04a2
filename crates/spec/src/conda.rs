//! Conda files: which Python, which packages from channels, which from PyPI.

use crate::{diagnostic::Diagnostics, source::SourceFile};

/// What a conda file asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CondaFile {
    pub name: Option<String>,
    pub channels: Vec<String>,
    /// The constraint on `python`: `3.12`, `>=3.10,<3.13`; empty where any will do, `None` where it is not asked for.
    pub python: Option<String>,
    /// Without `python` and `pip`.
    pub packages: Vec<CondaPackage>,
    /// Lines for pip: requirements and options (`--index-url …`). What `-r` and `-c` name has been put in their place.
    pub pip: Vec<String>,
}

/// One package of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CondaPackage {
    /// `conda-forge` of `conda-forge::numpy`.
    pub channel: Option<String>,
    pub name: String,
    /// As it was written: `=1.2`, `==1.2.3`, `>=1,<2`, `=1.2=py312_0`; empty for any.
    pub constraint: String,
}

/// Reads a conda file. Requirements that it includes are read too, relative to it.
pub fn parse(_file: &SourceFile) -> Result<CondaFile, Diagnostics> {
    unimplemented!()
}
