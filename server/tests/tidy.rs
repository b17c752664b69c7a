//! The house rules that no lint sees.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)] // a test fails by panicking
#![allow(missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

/// The engine's modules: each imports only what stands before it.
const ENGINE_ORDER: [&str; 17] = [
    "num",
    "types",
    "futures",
    "metrics",
    "batch",
    "config",
    "io",
    "checkpoint",
    "journal",
    "log",
    "producer",
    "partition",
    "shard",
    "verify",
    "engine",
    "sim",
    "guide",
];
/// Lines after which one asks what second idea has moved in.
const LINES_MAX: usize = 600;
/// Files that may be longer, each for a reason.
const LONGER: [&str; 0] = [];
/// Where the code is.
const SOURCES: [&str; 6] =
    ["engine/src", "engine/tests", "server/src", "server/tests", "server/protocol", "loadgen/src"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All files below `dir` whose names end in `.ext`, in the order of their names.
fn files(dir: &Path, ext: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        let hidden = path.file_name().unwrap().to_str().is_none_or(|n| n.starts_with('.'));
        if hidden || path.ends_with("target") || path.ends_with("node_modules") {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, ext));
        } else if path.extension().is_some_and(|e| e == ext) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(path).unwrap())
    };
    let all: Vec<_> =
        SOURCES.iter().flat_map(|dir| files(&root().join(dir), "rs")).map(read).collect();
    assert!(all.len() > 50, "the sources are not where they were");
    all
}

/// The part of a source file before its tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap()
}

fn is_test(name: &str) -> bool {
    name.contains("/tests/") || name.ends_with("/tests.rs")
}

#[test]
fn engine_modules_import_upward_only() {
    let place = |module: &str| ENGINE_ORDER.iter().position(|m| *m == module);
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let Some(rest) = name.strip_prefix("engine/src/").filter(|_| !is_test(&name)) else {
            continue;
        };
        let module = rest.split(['/', '.']).next().unwrap();
        if module == "lib" {
            continue;
        }
        let Some(mine) = place(module) else {
            wrong.push(format!("{name}: `{module}` has no place in ENGINE_ORDER"));
            continue;
        };
        for line in without_tests(&text).lines().filter(|l| !l.trim_start().starts_with("//")) {
            for import in line.split("crate::").skip(1) {
                let import =
                    import.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                if place(import).is_some_and(|theirs| theirs > mine) {
                    wrong.push(format!("{name} imports `{import}`, which stands after `{module}`"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_is_a_book() {
    let long = |(name, text): &(String, String)| {
        let lines = text.lines().count();
        (lines > LINES_MAX && !LONGER.contains(&name.as_str())).then(|| format!("{name}: {lines}"))
    };
    let wrong: Vec<_> = sources().iter().filter_map(long).collect();
    assert!(wrong.is_empty(), "over {LINES_MAX} lines:\n{}", wrong.join("\n"));
}

#[test]
fn nothing_unwraps_outside_tests() {
    let mut wrong = Vec::new();
    // The simulator is a tool of tests: it stops one by a panic.
    let exempt = |name: &str| {
        is_test(name) || name.contains("/fuzz/") || name.starts_with("engine/src/io/sim/")
    };
    for (name, text) in sources().iter().filter(|(name, _)| !exempt(name)) {
        let lines: Vec<&str> = without_tests(text).lines().collect();
        for (n, line) in (1_usize..).zip(&lines) {
            // One with a reason, on its function.
            if lines[n.saturating_sub(4)..n].iter().any(|l| l.starts_with("#[expect(clippy::")) {
                continue;
            }
            let code = line.split("//").next().unwrap();
            if [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!("]
                .iter()
                .any(|banned| code.contains(banned))
            {
                wrong.push(format!("{name}:{n}: {}", line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_below_the_seam_only() {
    let wrong: Vec<_> = sources()
        .into_iter()
        .filter(|(name, _)| !name.starts_with("engine/src/io/uring/"))
        .filter(|(name, text)| {
            !name.ends_with("tidy.rs")
                && text.lines().any(|l| {
                    let code = l.split("//").next().unwrap();
                    code.contains("unsafe {")
                        || code.contains("unsafe fn")
                        || code.contains("unsafe impl")
                })
        })
        .map(|(name, _)| name)
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_in_documents_resolve() {
    let mut wrong = Vec::new();
    for file in files(root(), "md") {
        let text = fs::read_to_string(&file).unwrap();
        let inline = text.split("](").skip(1);
        let named = text.lines().filter_map(|l| l.strip_prefix('[')?.split_once("]: "));
        for link in inline.chain(named.map(|(_, link)| link)) {
            let target = link.split([')', '#', ' ']).next().unwrap();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !file.parent().unwrap().join(target).exists() {
                wrong.push(format!("{}: {target}", file.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_that_the_engine_s_documents_name_are_there() {
    let sources: Vec<String> = sources().into_iter().map(|(name, _)| format!("/{name}")).collect();
    let mut wrong = Vec::new();
    let mut named = 0;
    for file in files(&root().join("engine"), "md") {
        let text = fs::read_to_string(&file).unwrap();
        // Outside of blocks: there backquotes come in pairs.
        for prose in text.split("```").step_by(2) {
            for code in prose.split('`').skip(1).step_by(2).filter(|code| code.ends_with(".rs")) {
                named += 1;
                if !sources.iter().any(|source| source.ends_with(&format!("/{code}"))) {
                    wrong.push(format!("{}: {code}", file.display()));
                }
            }
        }
    }
    assert!(named > 20, "the documents are not where they were");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What stands in backquotes at the start of each row of the table.
fn first_cells(table: &str) -> Vec<&str> {
    table.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect()
}

#[test]
fn the_engine_says_what_each_dependency_is_for() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let manifest = read("engine/Cargo.toml");
    let section = manifest.split("[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let names = section.lines().filter_map(|l| l.split(['.', ' ', '=']).next());
    let named: Vec<_> = names.filter(|name| !name.is_empty() && !name.starts_with('#')).collect();
    assert!(named.len() > 5, "the dependencies are not where they were");
    let document = read("engine/docs/dependencies.md");
    assert_eq!(first_cells(&document), named, "the table, and engine/Cargo.toml, in its order");
    // And each is used.
    for name in named {
        let path = format!("{}::", name.replace('-', "_"));
        let is_used = |(file, text): (String, String)| {
            file.starts_with("engine/src/") && without_tests(&text).contains(&path)
        };
        assert!(sources().into_iter().any(is_used), "nothing in engine/src says `{path}`");
    }
}
