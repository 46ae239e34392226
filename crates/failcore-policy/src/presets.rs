//! The presets that ship in the binary, as policy texts, and the variables that the run fills in.

use failcore_model::AbsPath;

use crate::environment::Environment;

/// What every policy starts from: the classes of special addresses and ordinary sockets.
pub(crate) const BUILT_IN: &str = "built-in";

/// The presets that `extends` can name.
pub(crate) const NAMES: &[&str] = &["python", "native", "allow-all"];

/// The text of a preset, by the name its rules carry.
pub(crate) fn text(name: &str) -> Option<&'static str> {
    Some(match name {
        BUILT_IN => include_str!("../presets/built-in.toml"),
        "preset:python" => include_str!("../presets/python.toml"),
        "preset:native" => include_str!("../presets/native.toml"),
        "preset:allow-all" => include_str!("../presets/allow-all.toml"),
        _ => return None,
    })
}

/// The values of a variable in a preset's paths. Several make an entry mean all of them, none makes it mean
/// nothing.
pub(crate) fn variable(name: &str, env: &Environment) -> Vec<AbsPath> {
    let python = |read: fn(&crate::Python) -> Vec<AbsPath>| env.python.as_ref().map(read).unwrap_or_default();
    match name {
        "tmp" => env.tmp.iter().cloned().collect(),
        "python" => python(crate::Python::names),
        "prefix" => python(|p| vec![p.prefix.clone(), p.base_prefix.clone(), p.base_exec_prefix.clone()]),
        "lib_dynload" => python(|p| p.lib_dynload.clone()),
        "site_packages" => python(|p| p.site_packages.clone()),
        _ => Vec::new(),
    }
}
