//! `config/lensgate.toml` documents every key and says nothing but the defaults.

use lensgate::config::{Config, Environment, Sources};

use crate::fixture::root;

#[test]
fn the_shipped_file_is_the_defaults() {
    let file = Some(root().join("config/lensgate.toml"));
    let shipped = Config::load(&Sources {
        file,
        environment: Environment::default(),
        flags: vec![],
    });
    assert_eq!(shipped, Ok(Config::default()));
}

#[test]
fn the_shipped_file_names_every_key() {
    let text = std::fs::read_to_string(root().join("config/lensgate.toml")).expect("the file");
    let every = toml::Table::try_from(Config::with_every_key()).expect("a table");
    let mut section = String::new();
    let mut named = Vec::new();
    for line in text.lines() {
        let line = line.trim_start_matches('#').trim();
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = format!("{name}.");
        } else if let Some((key, _)) = line.split_once(" = ") {
            named.push(format!("{section}{key}"));
        }
    }
    for (name, value) in &every {
        match value.as_table() {
            Some(keys) => {
                for key in keys.keys() {
                    assert!(
                        named.contains(&format!("{name}.{key}")),
                        "{name}.{key} is not documented"
                    );
                }
            }
            None => assert!(named.contains(name), "{name} is not documented"),
        }
    }
}

#[test]
fn the_settings_know_the_providers_that_the_backend_knows() {
    assert_eq!(
        lensgate::config::EXECUTION_PROVIDERS,
        lensgate::backend::ort::PROVIDERS
    );
}
