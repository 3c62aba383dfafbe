//! Settings of the servers: defaults < TOML file < environment < flags.
//!
//! A key that nobody knows is an error that names the nearest known one, wherever it came from. What a key means,
//! its default and its range are written once, beside the settings or in this folder.

mod nameserver;

use std::path::{Path, PathBuf};

use equeue_broker::BrokerConfig;
use equeue_nameserver::NameserverConfig;
use figment::providers::{Env, Format as _, Serialized, Toml};
use figment::value::{Dict, Value};
use figment::{Figment, Metadata, Profile, Provider as _, Source};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::Usage;
use crate::suggest;

/// The settings of one role.
pub(crate) trait Settings: Default + Serialize + DeserializeOwned {
    /// `broker` or `nameserver`.
    const ROLE: &'static str;
    /// Prefix of its environment variables.
    const ENVIRONMENT: &'static str;

    /// A file with every key, its meaning, range and default.
    fn document() -> String;

    /// Checks ranges and what belongs together.
    fn check(&self) -> Result<(), String>;
}

impl Settings for BrokerConfig {
    const ROLE: &'static str = "broker";
    const ENVIRONMENT: &'static str = "EQUEUE_BROKER__";

    fn document() -> String {
        equeue_broker::config::default_toml()
    }

    fn check(&self) -> Result<(), String> {
        self.validate().map_err(|error| error.to_string())
    }
}

impl Settings for NameserverConfig {
    const ROLE: &'static str = "nameserver";
    const ENVIRONMENT: &'static str = "EQUEUE_NAMESERVER__";

    fn document() -> String {
        nameserver::document()
    }

    fn check(&self) -> Result<(), String> {
        nameserver::check(self)
    }
}

/// Values by dotted key.
#[derive(Default)]
pub(crate) struct Values(Vec<(&'static str, Value)>);

impl Values {
    /// Sets a key, when there is a value for it.
    pub(crate) fn set<V: Serialize>(&mut self, key: &'static str, value: Option<V>) {
        if let Some(value) = value.and_then(|value| Value::serialize(value).ok()) {
            self.0.push((key, value));
        }
    }

    fn merge_into(self, figment: Figment) -> Figment {
        self.0
            .into_iter()
            .fold(figment, |figment, (key, value)| figment.merge(Serialized::default(key, value)))
    }
}

/// Where settings come from, lowest first.
#[derive(Default)]
pub(crate) struct Layers<'a> {
    /// What a role sets otherwise than the server crate.
    pub(crate) defaults: Values,
    /// The file of `--config`.
    pub(crate) file: Option<&'a Path>,
    /// The command line.
    pub(crate) flags: Values,
}

impl Layers<'_> {
    /// Puts the layers together with the environment and checks the result.
    ///
    /// # Errors
    /// [`Usage`], naming the file or variable, the key, and what is allowed there.
    pub(crate) fn load<S: Settings>(self) -> anyhow::Result<S> {
        let mut figment = self.defaults.merge_into(Figment::new());
        if let Some(path) = self.file {
            figment = figment.merge(file_layer(path)?);
        }
        figment = figment.merge(Env::prefixed(S::ENVIRONMENT).split("__"));
        extract(&self.flags.merge_into(figment))
    }
}

/// Reads and checks one file alone, as `equeue config check` does.
///
/// # Errors
/// As [`Layers::load`].
pub(crate) fn check_file<S: Settings>(path: &Path) -> anyhow::Result<()> {
    extract::<S>(&Figment::new().merge(file_layer(path)?)).map(drop)
}

fn file_layer(path: &Path) -> anyhow::Result<figment::providers::Data<Toml>> {
    // The provider takes a missing file for an empty one.
    std::fs::read_to_string(path)
        .map_err(|error| Usage(format!("cannot read the settings file {}: {error}", path.display())))?;
    Ok(Toml::file_exact(path))
}

fn extract<S: Settings>(figment: &Figment) -> anyhow::Result<S> {
    refuse_unknown_keys::<S>(figment)?;
    let settings: S = figment.extract().map_err(|error| Usage(explain(&error)))?;
    settings.check().map_err(Usage)?;
    Ok(settings)
}

fn refuse_unknown_keys<S: Settings>(figment: &Figment) -> anyhow::Result<()> {
    let data = figment.data().map_err(|error| Usage(explain(&error)))?;
    let Some(given) = data.get(&Profile::Default) else { return Ok(()) };
    let known = keys_of::<S>()?;
    let known: Vec<&str> = known.iter().map(String::as_str).collect();

    let mut complaints = Vec::new();
    flatten(given, "", &mut |key, value| {
        // The parser tells of a value in place of a section.
        if known.iter().any(|known| *known == key || known.starts_with(&format!("{key}."))) {
            return;
        }
        let place = figment.get_metadata(value.tag()).map(place).unwrap_or_default();
        let hint = match suggest::nearest_key(&key, &known) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("`equeue config default {}` lists every key", S::ROLE),
        };
        complaints.push(format!("unknown setting `{key}`{place}; {hint}"));
    });
    if complaints.is_empty() { Ok(()) } else { Err(Usage(complaints.join("\n        ")).into()) }
}

/// Every key of a role, dotted.
fn keys_of<S: Settings>() -> anyhow::Result<Vec<String>> {
    let defaults = Value::serialize(S::default()).map_err(|error| Usage(explain(&error)))?;
    let mut keys = Vec::new();
    if let Some(dict) = defaults.as_dict() {
        flatten(dict, "", &mut |key, _| keys.push(key));
    }
    Ok(keys)
}

/// Calls `visit` with the dotted path of every value and of every empty section.
fn flatten(dict: &Dict, prefix: &str, visit: &mut impl FnMut(String, &Value)) {
    for (key, value) in dict {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value.as_dict() {
            Some(inner) if !inner.is_empty() => flatten(inner, &path, visit),
            _ => visit(path, value),
        }
    }
}

/// Every error of a parse, each with its key and where it came from.
fn explain(error: &figment::Error) -> String {
    let lines: Vec<String> = error
        .clone()
        .into_iter()
        .map(|error| {
            let place = error.metadata.as_ref().map(place).unwrap_or_default();
            if error.path.is_empty() {
                return format!("{}{place}", error.kind);
            }
            format!("setting `{}`{place}: {}", error.path.join("."), error.kind)
        })
        .collect();
    lines.join("\n        ")
}

/// ` in FILE`, ` in the environment`, ` on the command line`.
fn place(metadata: &Metadata) -> String {
    match &metadata.source {
        Some(Source::File(path)) => format!(" in {}", shortest(path).display()),
        _ if metadata.name.contains("environment") => " in the environment".to_owned(),
        _ => " on the command line".to_owned(),
    }
}

/// The path as seen from here, when that is shorter.
fn shortest(path: &Path) -> PathBuf {
    std::env::current_dir()
        .ok()
        .and_then(|here| path.strip_prefix(here).ok().map(Path::to_path_buf))
        .unwrap_or_else(|| path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn refusal<S: Settings>(text: &str) -> String {
        check_file::<S>(file(text).path()).unwrap_err().to_string()
    }

    #[test]
    fn the_printed_documents_are_valid_and_hold_the_defaults() {
        check_file::<BrokerConfig>(file(&BrokerConfig::document()).path()).unwrap();
        check_file::<NameserverConfig>(file(&NameserverConfig::document()).path()).unwrap();
        let path = file(&BrokerConfig::document());
        let read: BrokerConfig = extract(&Figment::new().merge(file_layer(path.path()).unwrap())).unwrap();
        assert_eq!(read, BrokerConfig::default());
    }

    #[test]
    fn an_unknown_key_names_the_nearest_and_its_file() {
        let said = refusal::<BrokerConfig>("[storage]\nsynch = \"always\"\n");
        assert!(said.contains("`storage.synch`") && said.contains("did you mean `storage.sync`"), "{said}");
        let said = refusal::<BrokerConfig>("flush_depth = 2\n");
        assert!(said.contains("did you mean `storage.flush_depth`"), "{said}");
        let said = refusal::<BrokerConfig>("colour = \"red\"\n");
        assert!(said.contains("equeue config default broker"), "{said}");
    }

    #[test]
    fn every_unknown_key_is_told_at_once() {
        let said = refusal::<BrokerConfig>("listn = \"a:1\"\n[storage]\nsynch = 1\n");
        assert!(said.contains("`listn`") && said.contains("`storage.synch`"), "{said}");
    }

    #[test]
    fn wrong_types_and_ranges_name_the_key() {
        let said = refusal::<BrokerConfig>("[storage]\nflush_depth = \"two\"\n");
        assert!(said.contains("`storage.flush_depth`"), "{said}");
        let said = refusal::<BrokerConfig>("[storage]\nflush_depth = 9\n");
        assert!(said.contains("storage.flush_depth"), "{said}");
    }

    #[test]
    fn later_layers_win() {
        let path = file("listen = \"127.0.0.1:1\"\nname = \"from-file\"\n");
        let mut defaults = Values::default();
        defaults.set("name", Some("from-role"));
        defaults.set("data_dir", Some("/from/role"));
        let mut flags = Values::default();
        flags.set("listen", Some("127.0.0.1:2"));
        flags.set::<&str>("name", None);
        let config: BrokerConfig = Layers { defaults, file: Some(path.path()), flags }.load().unwrap();
        assert_eq!(config.listen, "127.0.0.1:2");
        assert_eq!(config.name, "from-file");
        assert_eq!(config.data_dir, PathBuf::from("/from/role"));
    }
}
