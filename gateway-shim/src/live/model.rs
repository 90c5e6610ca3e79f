//! What is known of all functions, and what of it has not been told yet.
//!
//! In: what a provider tells. Out: [`Change`]s, or the whole. Always: what was told is compared as text, so nothing is told twice.

use std::collections::{HashMap, HashSet, VecDeque};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::News;
use super::sample::Samples;
use crate::queue::Queue;

/// Decisions kept for those who begin to watch.
const DECISIONS_KEPT: usize = 1000;

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// The state as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// By `name.namespace`.
    functions: HashMap<String, Known>,
    /// Oldest first.
    decisions: VecDeque<Item>,
    system: Object,
    /// Why the provider tells nothing, while it does not.
    silence: Option<String>,
    /// The system as it was told.
    told_system: [String; 2],
    made: Vec<Item>,
    gone: Vec<Item>,
    /// Whether anything at all is known.
    is_ready: bool,
    /// Whether the next news are the whole.
    is_anew: bool,
}

#[derive(Debug)]
struct Known {
    function: Object,
    namespace: Box<str>,
    told: String,
}

/// A piece of JSON about a namespace.
#[derive(Debug, Clone)]
pub(super) struct Item {
    namespace: Box<str>,
    json: Box<str>,
}

/// News of one kind.
#[derive(Debug)]
pub(super) enum Change {
    /// A list of these.
    List {
        /// The event's name.
        event: &'static str,
        /// What of it concerns whom.
        items: Vec<Item>,
    },
    /// The system: for those who may see all, and for the others.
    System([String; 2]),
}

impl Change {
    /// The event for whoever may see `allowed` namespaces, `None` for all; nothing when it is not for them.
    pub(super) fn text(&self, allowed: Option<&[String]>) -> Option<String> {
        let (event, data) = match self {
            Self::System(both) => ("system", both[usize::from(allowed.is_some())].clone()),
            Self::List { event, items } => {
                let items = list(items.iter().map(|item| (&*item.namespace, &*item.json)), allowed);
                (*event, items?)
            }
        };
        Some(format!("event: {event}\ndata: {data}\n\n"))
    }
}

/// Those within `allowed` as a JSON list; `None` without any.
fn list<'a>(
    items: impl Iterator<Item = (&'a str, &'a str)>,
    allowed: Option<&[String]>,
) -> Option<String> {
    let is_allowed = |namespace| allowed.is_none_or(|all| all.iter().any(|name| name == namespace));
    let mine: Vec<_> = items.filter(|item| is_allowed(item.0)).map(|item| item.1).collect();
    (!mine.is_empty()).then(|| format!("[{}]", mine.join(",")))
}

impl Model {
    /// The provider's whole state: what was known before is forgotten.
    pub(super) fn replace(
        &mut self,
        functions: Vec<Object>,
        decisions: Vec<Object>,
        system: Object,
    ) {
        self.functions.clear();
        self.decisions.clear();
        self.take(functions);
        self.decided(decisions);
        self.made.clear();
        self.gone.clear();
        self.system = system;
        self.silence = None;
        self.is_anew = true;
        self.is_ready = true;
    }

    /// All functions there are now, of a provider that tells of nothing else.
    pub(super) fn replace_functions(&mut self, functions: Vec<Object>) {
        let there: HashSet<_> = functions.iter().filter_map(key).collect();
        let missing = self.functions.keys().filter(|key| !there.contains(*key)).cloned();
        let missing: Vec<_> = missing.collect();
        self.gone(missing);
        self.take(functions);
        self.silence = None;
    }

    /// Functions that are new or have changed.
    pub(super) fn take(&mut self, functions: Vec<Object>) {
        for function in functions {
            let Some(key) = key(&function) else { continue };
            let namespace = text(&function, "namespace").into();
            let told = self.functions.remove(&key).map(|known| known.told).unwrap_or_default();
            self.functions.insert(key, Known { function, namespace, told });
        }
    }

    /// Functions that no longer exist.
    pub(super) fn gone(&mut self, keys: Vec<String>) {
        for key in keys {
            if let Some(known) = self.functions.remove(&key) {
                let json = Value::from(key).to_string().into();
                self.gone.push(Item { namespace: known.namespace, json });
            }
        }
    }

    /// Decisions that were made, oldest first.
    pub(super) fn decided(&mut self, decisions: Vec<Object>) {
        for decision in decisions {
            let namespace = text(&decision, "function").rsplit('.').next().unwrap_or_default();
            let namespace = namespace.into();
            let item = Item { namespace, json: Value::Object(decision).to_string().into() };
            self.made.push(item.clone());
            self.decisions.push_back(item);
        }
        let surplus = self.decisions.len().saturating_sub(DECISIONS_KEPT);
        self.decisions.drain(..surplus);
    }

    /// All that is not about one function.
    pub(super) fn system(&mut self, system: Object) {
        self.system = system;
    }

    /// The provider tells nothing any more, or has not yet, for this reason.
    pub(super) fn silent(&mut self, reason: String) {
        self.silence = Some(reason);
        self.is_anew |= !self.is_ready;
        self.is_ready = true;
    }

    /// What is to be told; `None` when nothing is.
    pub(super) fn news(&mut self, samples: &Samples, queue: Option<&Queue>) -> Option<News> {
        if !self.is_ready {
            return None;
        }
        let functions = self.changed(samples);
        let system = self.system_now(queue);
        let is_other_system = system != self.told_system;
        self.told_system = system;
        let (gone, made) = (std::mem::take(&mut self.gone), std::mem::take(&mut self.made));
        if std::mem::take(&mut self.is_anew) {
            return Some(News::Anew);
        }
        let lists = [("gone", gone), ("functions", functions), ("decisions", made)];
        let lists = lists.into_iter().filter(|(_, items)| !items.is_empty());
        let mut changes: Vec<_> =
            lists.map(|(event, items)| Change::List { event, items }).collect();
        if is_other_system {
            changes.push(Change::System(self.told_system.clone()));
        }
        (!changes.is_empty()).then(|| News::Changes(changes.into()))
    }

    /// Functions that differ from what was told.
    fn changed(&mut self, samples: &Samples) -> Vec<Item> {
        let mut changed = Vec::new();
        for (key, known) in &mut self.functions {
            let mut function = known.function.clone();
            samples.of(key).add_to(&mut function);
            let json = Value::Object(function).to_string();
            if json != known.told {
                known.told.clone_from(&json);
                changed.push(Item { namespace: known.namespace.clone(), json: json.into() });
            }
        }
        changed
    }

    /// The system with what the gateway adds: for those who may see all, and for the others.
    fn system_now(&self, queue: Option<&Queue>) -> [String; 2] {
        let mut system = self.system.clone();
        if let Some(reason) = &self.silence {
            system.insert("trouble".into(), reason.as_str().into());
        }
        let mut scoped = system.clone();
        // Whom a standby container serves is in that function's own data, for those who may see it.
        let standbys = scoped.get_mut("standbys").and_then(Value::as_array_mut);
        for standby in standbys.into_iter().flatten().filter_map(Value::as_object_mut) {
            standby.remove("function");
        }
        let scoped = Value::Object(scoped).to_string();
        if let Some(queue) = queue {
            let totals = queue.totals();
            let waiting = json!({ "depth": totals.messages, "running": queue.running(), "dead": totals.dead });
            system.insert("async".into(), waiting);
        }
        [Value::Object(system).to_string(), scoped]
    }

    /// The whole as it was told last, for whoever may see `allowed` namespaces; `None` while nothing was told.
    pub(super) fn whole(&self, allowed: Option<&[String]>) -> Option<String> {
        let system = &self.told_system[usize::from(allowed.is_some())];
        if system.is_empty() || self.is_anew {
            return None;
        }
        let told = self.functions.values().filter(|known| !known.told.is_empty());
        let functions = list(told.map(|known| (&*known.namespace, &*known.told)), allowed);
        let decisions = self.decisions.iter().map(|item| (&*item.namespace, &*item.json));
        let decisions = list(decisions, allowed);
        let (functions, decisions) =
            (functions.unwrap_or_else(|| "[]".into()), decisions.unwrap_or_else(|| "[]".into()));
        let now = Timestamp::now().as_millisecond();
        Some(format!(
            "event: state\ndata: {{\"now\":{now},\"system\":{system},\"functions\":{functions},\"decisions\":{decisions}}}\n\n"
        ))
    }
}

fn key(function: &Object) -> Option<String> {
    let name = text(function, "name");
    (!name.is_empty()).then(|| format!("{name}.{}", text(function, "namespace")))
}

fn text<'a>(object: &'a Object, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, namespace: &str, replicas: u32) -> Object {
        let value = json!({ "name": name, "namespace": namespace, "replicas": replicas });
        value.as_object().unwrap().clone()
    }

    fn told(model: &mut Model, allowed: Option<&[String]>) -> String {
        match model.news(&Samples::default(), None) {
            Some(News::Changes(changes)) => {
                changes.iter().filter_map(|change| change.text(allowed)).collect()
            }
            Some(News::Anew) => model.whole(allowed).unwrap(),
            None => String::new(),
        }
    }

    fn ready() -> Model {
        let mut model = Model::default();
        assert!(told(&mut model, None).is_empty() && model.whole(None).is_none());
        let both = vec![function("a", "one", 1), function("b", "two", 1)];
        model.replace(both, Vec::new(), Object::new());
        let whole = told(&mut model, None);
        assert!(whole.starts_with("event: state\ndata: {\"now\":"), "{whole}");
        assert_eq!(whole.matches("\"replicas\":1").count(), 2);
        model
    }

    #[test]
    fn only_what_has_changed_is_told_and_only_once() {
        let mut model = ready();
        assert_eq!(told(&mut model, None), "");
        model.take(vec![function("a", "one", 1), function("b", "two", 2)]);
        let news = told(&mut model, None);
        assert!(
            news.starts_with("event: functions\ndata: [{") && !news.contains("\"a\""),
            "{news}"
        );
        model.gone(vec!["b.two".into(), "unknown.two".into()]);
        assert_eq!(told(&mut model, None), "event: gone\ndata: [\"b.two\"]\n\n");
        assert_eq!(told(&mut model, None), "");
    }

    #[test]
    fn a_user_of_namespaces_hears_of_these_alone() {
        let mut model = ready();
        let mine = ["one".to_owned()];
        let whole = model.whole(Some(&mine)).unwrap();
        assert!(whole.contains("\"a\"") && !whole.contains("\"b\""), "{whole}");
        model.take(vec![function("b", "two", 9)]);
        let decision = json!({ "function": "b.two", "at": 1 });
        model.decided(vec![decision.as_object().unwrap().clone()]);
        assert_eq!(told(&mut model, Some(&mine)), "");
    }

    #[test]
    fn whom_a_standby_container_serves_is_not_told_to_a_user_of_namespaces() {
        let mut model = Model::default();
        let system = json!({ "standbys": [{ "id": "s", "state": "taken", "function": "b.two" }] });
        model.replace(Vec::new(), Vec::new(), system.as_object().unwrap().clone());
        assert!(told(&mut model, None).contains("b.two"));
        let scoped = model.whole(Some(&["one".to_owned()])).unwrap();
        assert!(scoped.contains(r#""state":"taken""#) && !scoped.contains("b.two"), "{scoped}");
    }

    #[test]
    fn a_list_of_all_functions_tells_which_are_gone() {
        let mut model = ready();
        model.replace_functions(vec![function("a", "one", 1)]);
        assert_eq!(told(&mut model, None), "event: gone\ndata: [\"b.two\"]\n\n");
    }

    #[test]
    fn silence_is_told_and_what_was_known_stays() {
        let mut model = ready();
        model.silent("the provider cannot be reached".into());
        let news = told(&mut model, None);
        assert_eq!(
            news,
            "event: system\ndata: {\"trouble\":\"the provider cannot be reached\"}\n\n"
        );
        assert!(model.whole(None).unwrap().contains("\"a\""));
        let mut unknown = Model::default();
        unknown.silent("x".into());
        assert!(told(&mut unknown, None).contains("\"functions\":[]"));
    }
}
