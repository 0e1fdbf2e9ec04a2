//! The programs that make environments, where they lie on this machine, and what of our variables they get.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::EnvironmentConfig;

/// Variables that a program needs to find its way; it has [`PROXIES`] beside them.
const PASSED_ON: [&str; 14] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "TZ",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NETRC",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
];

/// Proxies, as every program reads them.
pub(super) const PROXIES: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
];

/// Settings of pip that uv has under names of its own: who has set pip up need not set uv up as well.
const OF_PIP: [(&str, &str); 4] = [
    ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
    ("PIP_EXTRA_INDEX_URL", "UV_INDEX"),
    ("PIP_FIND_LINKS", "UV_FIND_LINKS"),
    ("PIP_CERT", "SSL_CERT_FILE"),
];

/// The program as it was configured, in the tools' folder, beside the running binary, or on the `PATH`.
pub(crate) fn find(config: &EnvironmentConfig, name: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    let path = config.environment.get("PATH").map_or("", String::as_str);
    [config.tools.join("bin"), config.tools.clone()]
        .into_iter()
        .chain(beside)
        .chain(std::env::split_paths(path).filter(|folder| folder.is_absolute()))
        .map(|folder| folder.join(name))
        .find(|file| is_program(file))
}

pub(crate) fn is_program(file: &Path) -> bool {
    rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file()
}

/// What such a program's environment is.
pub(crate) fn variables(environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let own = |name: &str| {
        PASSED_ON.contains(&name)
            || PROXIES.contains(&name)
            || ["UV_", "PIP_", "MAMBA_", "CONDA_PKGS_"].iter().any(|prefix| name.starts_with(prefix))
    };
    let mut variables: BTreeMap<String, String> = environment
        .iter()
        .filter(|(name, _)| own(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for (pip, uv) in OF_PIP {
        if let Some(value) = environment.get(pip).filter(|value| !value.is_empty()) {
            // pip separates several by spaces, uv takes them so as well, but for links.
            let value = if uv == "UV_FIND_LINKS" { value.replace(' ', ",") } else { value.clone() };
            variables.entry(uv.to_owned()).or_insert(value);
        }
    }
    variables.insert("UV_NO_PROGRESS".to_owned(), "1".to_owned());
    variables.insert("UV_PYTHON_DOWNLOADS".to_owned(), "never".to_owned());
    variables.insert("NO_COLOR".to_owned(), "1".to_owned());
    variables.insert("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned());
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_pip_hold_for_uv_and_nothing_private_is_passed_on() {
        let environment: BTreeMap<String, String> = [
            ("PATH", "/bin"),
            ("PIP_FIND_LINKS", "/a /b"),
            ("UV_INDEX", "https://own"),
            ("PIP_EXTRA_INDEX_URL", "https://other"),
            ("DATABASE_PASSWORD", "x"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        let variables = variables(&environment);
        let get = |name: &str| variables.get(name).map(String::as_str);
        assert_eq!(get("UV_FIND_LINKS"), Some("/a,/b"));
        assert_eq!(get("UV_INDEX"), Some("https://own"));
        assert_eq!(get("PATH"), Some("/bin"));
        assert_eq!(get("DATABASE_PASSWORD"), None);
    }
}
