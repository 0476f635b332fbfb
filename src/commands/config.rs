//! `virtkeep config`: a look at the configuration, and a file to begin with.

use anyhow::Result;
use serde_json::{Value, json};

use super::print::print;
use crate::cli::config::check::{self, InForce, Look};
use crate::cli::config::merge::{Origin, Setting};
use crate::cli::config::variables::Variables;
use crate::cli::config::{Action, Config, EXAMPLE, SYSTEM};
use crate::error;
use crate::exit::Exit;

/// Runs it.
///
/// # Errors
/// [`Kind::Io`](crate::error::Kind::Io) where standard output can't be written to.
pub fn run(args: &Config) -> Result<Exit> {
    if args.action == Action::Example {
        print(EXAMPLE)?;
        return Ok(Exit::Done);
    }
    let look = check::look(args.file.clone(), &Variables::of(std::env::vars_os()), args.domain.as_deref());
    print(&if args.json { format!("{:#}\n", as_json(&look)) } else { as_text(&look) })?;
    for note in &look.notes {
        tracing::warn!("{note}");
    }
    for error in &look.errors {
        tracing::error!("{}", error::report(error));
        if let Some(hint) = error.hint_text() {
            tracing::error!("hint: {hint}");
        }
    }
    if look.errors.is_empty() { Ok(Exit::Done) } else { Ok(Exit::Usage) }
}

fn as_text(look: &Look) -> String {
    let mut text = match &look.file {
        Some(path) => format!("configuration: {}\n", path.display()),
        None if look.errors.is_empty() => format!("configuration: none ({SYSTEM} is not there)\n"),
        None => String::new(),
    };
    let is_empty = |section: &InForce| {
        section.merged.used.is_empty() && section.merged.unused.is_empty() && section.defaults.is_empty()
    };
    for section in look.sections.iter().filter(|section| !is_empty(section)) {
        text.push_str(&format!("\n{}\n", title(section)));
        let used = section
            .merged
            .used
            .iter()
            .map(|setting| (setting.long.clone(), format!("= {}", setting.given), origin(&setting.origin)));
        let unused = section.merged.unused.iter().map(|(setting, why)| {
            (
                setting.long.clone(),
                format!("= {}", setting.given),
                format!("{}: NOT IN FORCE, {why}", origin(&setting.origin)),
            )
        });
        let defaults = section.defaults.iter();
        let defaults = defaults.map(|(long, value)| (long.clone(), format!("= {value:?}"), "default".to_owned()));
        let rows: Vec<(String, String, String)> = used.chain(unused).chain(defaults).collect();
        let wide = |column: fn(&(String, String, String)) -> &str| {
            rows.iter().map(|row| column(row).chars().count()).max().unwrap_or_default().min(40)
        };
        let (first, second) = (wide(|row| &row.0), wide(|row| &row.1));
        for (long, value, origin) in &rows {
            text.push_str(&format!("  {long:first$} {value:second$}  {origin}\n"));
        }
    }
    text
}

fn title(section: &InForce) -> String {
    match &section.domain {
        Some(domain) => format!("{} of domain {domain}", section.command),
        None => section.command.clone(),
    }
}

fn origin(origin: &Origin) -> String {
    match origin {
        Origin::Variable(name) => format!("variable {name}"),
        Origin::File { path, line, section } if section.is_empty() => format!("{}:{line}", path.display()),
        Origin::File { path, line, section } => format!("{}:{line} {section}", path.display()),
    }
}

fn as_json(look: &Look) -> Value {
    let sections = look.sections.iter().map(|section| {
        let used = section.merged.used.iter().map(|setting| option(setting, None));
        let unused = section.merged.unused.iter().map(|(setting, why)| option(setting, Some(why)));
        let default = |(long, value): &(String, String)| {
            json!({ "option": long, "value": value, "in_force": true, "source": { "kind": "default" } })
        };
        let options: Vec<Value> = used.chain(unused).chain(section.defaults.iter().map(default)).collect();
        json!({ "command": section.command, "domain": section.domain, "options": options })
    });
    let errors = look.errors.iter().map(|error| json!({ "message": error::report(error), "hint": error.hint_text() }));
    json!({
        "file": look.file.as_ref().map(|path| path.display().to_string()),
        "sections": sections.collect::<Vec<_>>(),
        "errors": errors.collect::<Vec<_>>(),
        "warnings": look.notes,
    })
}

fn option(setting: &Setting, why: Option<&String>) -> Value {
    use crate::cli::config::options::Given;
    let value = match &setting.given {
        Given::Bool(set) => json!(set),
        Given::Number(text) => text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number)),
        Given::Text(text) => json!(text),
        Given::List(values) => json!(values),
    };
    let source = match &setting.origin {
        Origin::Variable(name) => json!({ "kind": "variable", "name": name }),
        Origin::File { path, line, section } => {
            json!({ "kind": "file", "path": path.display().to_string(), "line": line, "section": section })
        }
    };
    let mut option = json!({ "option": setting.long, "value": value, "in_force": why.is_none(), "source": source });
    if let (Some(why), Some(object)) = (why, option.as_object_mut()) {
        object.insert("why_not".to_owned(), json!(why));
    }
    option
}
