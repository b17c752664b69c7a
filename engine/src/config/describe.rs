//! The table as an answer to DescribeConfigs, and as documentation.

use super::{
    BROKER_ONLY, BrokerConfig, ConfigError, Effect, Scope, Setting, Synonym, TABLE, Unit,
    topic_setting,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It was set for the topic.
    Topic,
    /// It stands in the broker's properties or among its options.
    StaticBroker,
    /// Nobody set it.
    Default,
}

impl Source {
    /// Kafka's number for it.
    #[must_use]
    pub const fn id(self) -> i8 {
        match self {
            Self::Topic => 1,
            Self::StaticBroker => 4,
            Self::Default => 5,
        }
    }
}

/// A setting with its value.
#[derive(Clone, Debug)]
pub struct Described {
    /// The name under which it was asked for: a topic's, or one of the broker's.
    pub name: &'static str,
    /// Its row.
    pub setting: &'static Setting,
    /// Its value as text; `None` is Kafka's null.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: Source,
    /// All values under all names that could have decided it, the one that did first.
    pub synonyms: Vec<(&'static str, Option<String>, Source)>,
}

impl BrokerConfig {
    /// Every setting of a topic for which `set` was set, in the order of the names.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn describe_topic<'a>(
        &self,
        set: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Vec<Described>, ConfigError> {
        let set: BTreeMap<&str, &str> = set.into_iter().collect();
        for (name, value) in &set {
            topic_setting(name)?.parse(value)?;
        }
        self.topic(set.iter().map(|(name, value)| (*name, *value)))?;
        let topics = TABLE.iter().filter(|s| matches!(s.scope, Scope::Topic(_)));
        Ok(topics.map(|s| self.describe_for_topic(s, set.get(s.name).copied())).collect())
    }

    /// Every setting of the broker's, its own and the topics' defaults, in the order of the names.
    #[must_use]
    pub fn describe(&self) -> Vec<Described> {
        let names = |s: &'static Setting| s.broker_names().map(move |synonym| (s, synonym.name));
        let mut all: Vec<_> = TABLE
            .iter()
            .flat_map(names)
            .map(|(setting, name)| {
                let set = self.set.get(name).map(|v| (name, Some(v.clone()), Source::StaticBroker));
                let default = (name, default_of(setting, name), Source::Default);
                let synonyms: Vec<_> = set.into_iter().chain([default]).collect();
                Described::first_of(name, setting, synonyms)
            })
            .collect();
        all.sort_unstable_by_key(|d| d.name);
        all
    }

    fn describe_for_topic(&self, setting: &'static Setting, set: Option<&str>) -> Described {
        let mut synonyms = Vec::new();
        if let Some(value) = set {
            synonyms.push((setting.name, Some(value.trim().to_owned()), Source::Topic));
        }
        let mut last = setting.name;
        for Synonym { name, factor } in setting.broker_names() {
            last = name;
            if let Some(set) = self.set.get(name) {
                // In the topic's unit: 168 hours are 604800000 ms.
                let scaled = (factor != 1).then(|| setting.kind.parse(set, factor)).flatten();
                let value = scaled.map_or_else(|| set.clone(), |v| v.i64().to_string());
                synonyms.push((name, Some(value), Source::StaticBroker));
            }
        }
        synonyms.push((last, setting.default.map(str::to_owned), Source::Default));
        Described::first_of(setting.name, setting, synonyms)
    }
}

impl Described {
    fn first_of(
        name: &'static str,
        setting: &'static Setting,
        synonyms: Vec<(&'static str, Option<String>, Source)>,
    ) -> Self {
        let (value, source) = synonyms
            .first()
            .map_or((None, Source::Default), |(_, value, source)| (value.clone(), *source));
        Self { name, setting, value, source, synonyms }
    }
}

/// What the broker's `name` is when nobody set it. Of several names for one thing only the last
/// has a default, in its own unit: 168 hours, and null ms.
fn default_of(setting: &Setting, name: &str) -> Option<String> {
    let last = setting.broker_names().last().filter(|s| s.name == name)?;
    let default = setting.default?;
    let scaled = default.parse().ok().filter(|_| last.factor != 1);
    Some(scaled.map_or(default.to_owned(), |n: i64| (n / last.factor).to_string()))
}

/// The table as a page of documentation.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from("# Settings\n");
    for (title, of_topics) in [("Topics", true), ("Broker", false)] {
        let head = "| name | accepts | default | what it does |\n|---|---|---|---|\n";
        let mut rows = String::new();
        for setting in TABLE.iter().filter(|s| matches!(s.scope, Scope::Topic(_)) == of_topics) {
            setting.row(&mut rows);
        }
        // Writing to a String cannot fail.
        let _infallible = write!(page, "\n## {title}\n\n{head}{rows}");
    }
    page.push_str("\n## Known and without effect\n\n| name | why |\n|---|---|\n");
    for (name, why) in BROKER_ONLY {
        let _infallible = writeln!(page, "| `{name}` | {why} |");
    }
    page
}

impl Setting {
    fn row(&self, out: &mut String) {
        let unit = match self.unit {
            Unit::Plain => "",
            Unit::Bytes => " (bytes)",
            Unit::Ms => " (ms)",
        };
        let default = self.default.map_or("null".to_owned(), |d| format!("`{d}`"));
        let _infallible =
            write!(out, "| `{}` | {}{unit} | {default} | {}", self.name, self.kind, self.doc);
        if let Scope::Topic([_, ..]) = self.scope {
            let names: Vec<_> = self.broker_names().map(|s| format!("`{}`", s.name)).collect();
            let _infallible = write!(out, " Broker: {}.", names.join(", "));
        }
        if let Effect::Stored(why) = self.effect {
            let _infallible = write!(out, " *Stored without effect: {why}.*");
        }
        out.push_str(" |\n");
    }
}
