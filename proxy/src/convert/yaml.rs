//! Writing a configuration down, for people to read and go on with.
//!
//! Texts are in quotes wherever YAML might take them for something else.

/// Longest section that is written in one line.
const LINE: usize = 110;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// Numbers, flags, durations, sizes: as they are.
    Plain(String),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A section.
    Section(Section),
}

/// A section: keys in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Section(Vec<(&'static str, Node)>);

impl Section {
    /// Whether it has no keys.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A key, where there is a value.
    pub(super) fn put(&mut self, key: &'static str, value: impl Into<Option<Node>>) -> &mut Section {
        if let Some(node) = value.into() {
            self.0.push((key, node));
        }
        self
    }

    /// The whole file.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        for (index, (key, node)) in self.0.iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            entry(key, node, 0, &mut text);
        }
        text
    }
}

impl From<Section> for Node {
    fn from(section: Section) -> Node {
        Node::Section(section)
    }
}

impl Node {
    /// Text.
    pub(super) fn text(text: impl Into<String>) -> Node {
        Node::Text(text.into())
    }

    /// A number, flag, duration or size.
    pub(super) fn plain(value: impl ToString) -> Node {
        Node::Plain(value.to_string())
    }

    /// A flag that is only written when it is set.
    pub(super) fn set(flag: bool) -> Option<Node> {
        flag.then(|| Node::plain(true))
    }

    /// All in one line.
    fn inline(&self) -> String {
        match self {
            Node::Plain(value) => value.clone(),
            Node::Text(text) => quoted(text),
            Node::List(nodes) => format!("[{}]", nodes.iter().map(Node::inline).collect::<Vec<_>>().join(", ")),
            Node::Section(Section(entries)) if entries.is_empty() => "{}".to_owned(),
            Node::Section(Section(entries)) => {
                let entries = entries.iter().map(|(key, node)| format!("{key}: {}", node.inline()));
                format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

fn entry(key: &str, node: &Node, indent: usize, text: &mut String) {
    let start = format!("{}{key}:", " ".repeat(indent));
    match node {
        // Lists of sections are what people look for: one section begins each line.
        Node::List(nodes) if nodes.iter().any(|node| matches!(node, Node::Section(_))) => {
            text.push_str(&format!("{start}\n"));
            for node in nodes {
                item(node, indent + 2, text);
            }
        }
        Node::Section(Section(entries)) if start.len() + node.inline().len() > LINE => {
            text.push_str(&format!("{start}\n"));
            for (key, node) in entries {
                entry(key, node, indent + 2, text);
            }
        }
        node => text.push_str(&format!("{start} {}\n", node.inline())),
    }
}

fn item(node: &Node, indent: usize, text: &mut String) {
    let start = format!("{}- ", " ".repeat(indent));
    match node {
        Node::Section(Section(entries)) if start.len() + node.inline().len() > LINE => {
            let mut body = String::new();
            for (key, node) in entries {
                entry(key, node, indent + 2, &mut body);
            }
            text.push_str(&start);
            text.push_str(body.trim_start());
        }
        node => text.push_str(&format!("{start}{}\n", node.inline())),
    }
}

/// As it is where that is plainly text, else as JSON writes it, which YAML reads.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let means_something_else = matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    if starts_well && text.chars().all(plain) && !means_something_else {
        return text.to_owned();
    }
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::{Node, Section};

    #[test]
    fn writes_short_sections_in_one_line_and_long_ones_below_each_other() {
        let mut short = Section::default();
        short.put("name", Node::text("a")).put("bind", Node::text("0.0.0.0:80")).put("none", None);
        let mut long = Section::default();
        long.put("name", Node::text("no")).put("path", Node::text(format!("/{}", "x".repeat(120))));
        long.put("inner", Node::from(short.clone())).put("many", Node::List(vec![short.clone().into()]));
        long.put("empty", Node::from(Section::default())).put("count", Node::plain(5));
        let mut file = Section::default();
        file.put("list", Node::List(vec![short.into(), long.into()]));
        file.put("flags", Node::List(vec![Node::plain(1), Node::text("1.2")]));
        let expected = format!(
            "list:\n  - {{ name: a, bind: \"0.0.0.0:80\" }}\n  - name: \"no\"\n    path: /{}\n    \
             inner: {{ name: a, bind: \"0.0.0.0:80\" }}\n    many:\n      - {{ name: a, bind: \"0.0.0.0:80\" }}\n    \
             empty: {{}}\n    count: 5\n\nflags: [1, \"1.2\"]\n",
            "x".repeat(120)
        );
        assert_eq!(file.render(), expected);
    }
}
