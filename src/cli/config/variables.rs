//! The environment: `VIRTKEEP_BACKUP_COMPRESS=4` is `virtkeep backup --compress=4`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::merge::{Origin, Setting};
use super::options::{self, Definition, Given};
use crate::error::{Error, Result};

const PREFIX: &str = "VIRTKEEP_";
/// Older names, for every command that has the option.
const COMMON: [(&str, &str); 3] =
    [("uri", "VIRTKEEP_URI"), ("cache-dir", "VIRTKEEP_CACHE_DIR"), ("password-file", "VIRTKEEP_PASSWORD")];

/// The variables that are virtkeep's; an empty one is as good as none.
#[derive(Debug, Clone, Default)]
pub struct Variables(BTreeMap<String, OsString>);

impl Variables {
    /// Those among `all`.
    pub fn of(all: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let ours = all.filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self(ours.filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty()).collect())
    }

    /// The value of one.
    pub fn get(&self, name: &str) -> Option<&OsString> {
        self.0.get(name)
    }

    /// What they say of the options of `command`.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a value that an option can't have.
    pub fn settings(&self, command: &str, definitions: &[Definition]) -> Result<Vec<Setting>> {
        let mut settings = Vec::new();
        for definition in definitions {
            let Some((name, value)) = self.find(command, definition) else { continue };
            let wrong = |why: &str| Error::usage(format!("the variable {name}: {why}"));
            let origin = Origin::Variable(name.to_owned());
            if name == "VIRTKEEP_PASSWORD" {
                // It is stronger than a file's name of a file, and never becomes a word.
                let given = Given::Text("(a password)".to_owned());
                settings.push(Setting { long: definition.long.clone(), given, words: Vec::new(), origin });
                continue;
            }
            let text = value.to_str().ok_or_else(|| wrong("its value is not UTF-8"))?;
            let given = definition.of_text(text);
            let words = definition.words(&given).map_err(|why| wrong(&why))?;
            settings.push(Setting { long: definition.long.clone(), given, words, origin });
        }
        Ok(settings)
    }

    fn find(&self, command: &str, definition: &Definition) -> Option<(&str, &OsString)> {
        let own = name(command, &definition.long);
        let common = COMMON.iter().find(|(long, _)| *long == definition.long).map(|(_, name)| *name);
        let found = self.0.get_key_value(&own).or_else(|| self.0.get_key_value(common?));
        let found = found.map(|(name, value)| (name.as_str(), value));
        found.filter(|(name, value)| *name != "VIRTKEEP_CACHE_DIR" || Path::new(value).is_absolute())
    }

    /// Variables that look like an option of `command` and are none, each with what to do about it.
    pub fn strangers(&self, command: &str, definitions: &[Definition]) -> Vec<String> {
        let begin = name(command, "");
        let mut notes = Vec::new();
        for variable in self.0.keys().filter(|variable| variable.starts_with(&begin)) {
            let long = variable.get(begin.len()..).unwrap_or_default().to_lowercase().replace('_', "-");
            if definitions.iter().any(|definition| definition.long == long) {
                continue;
            }
            let near = options::nearest(&long, definitions.iter().map(|definition| definition.long.as_str()));
            let remedy = match (options::refusal(&long), near) {
                (Some(remedy), _) => remedy.to_owned(),
                (None, Some(near)) => format!("is it {}?", name(command, near)),
                (None, None) => format!("virtkeep {command} --help lists the options"),
            };
            notes.push(format!(
                "the variable {variable} is not an option of {command} that can be set, and does nothing: {remedy}"
            ));
        }
        notes
    }
}

/// The variable of an option.
pub fn name(command: &str, long: &str) -> String {
    format!("{PREFIX}{command}_{long}").to_uppercase().replace('-', "_")
}
