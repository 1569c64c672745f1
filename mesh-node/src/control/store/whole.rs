//! Files as a whole: those that cannot be read, and those that suddenly say nothing.

use std::collections::{BTreeSet, HashMap, HashSet};

use mesh_common::model::Text;

use super::{File, FileReader, Store, first_of};
use crate::control::documents::{Claim, Complaint, Denial, Place, Problem};
use crate::control::object::{Meaning, ObjectKey};
use crate::control::translate::Effect;

/// Why a file cannot be taken, as in "FILE has too much", and what it denies until it can be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Refusal {
    reason: String,
    denials: Vec<(ObjectKey, Claim)>,
}

impl Refusal {
    /// Why the file cannot be taken.
    #[cfg(test)]
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }
}

impl File {
    /// What it holds that is in force, or held before it was empty.
    pub(super) fn held(&self, in_force: &HashMap<ObjectKey, Meaning>) -> Vec<ObjectKey> {
        let keys = self.documents.iter().flat_map(|placed| &placed.document.objects).map(|(key, _)| key);
        let lingering = self.lingering.keys();
        if self.documents.is_empty() {
            self.emptied.clone()
        } else {
            keys.chain(lingering).filter(|key| in_force.contains_key(key)).cloned().collect()
        }
    }
}

impl FileReader {
    /// Why a file cannot be taken of which this much could be seen. Policies in it that it did not hold before deny what
    /// they might.
    pub fn refusal(&self, reason: String, seen: &str) -> Refusal {
        let objects = self.known.values().flat_map(|document| &document.objects);
        let held: HashSet<&ObjectKey> = objects.map(|(key, _)| key).collect();
        let is_kept = |Denial { key, is_listed, .. }: &Denial| {
            held.contains(key) || (*is_listed && held.iter().any(|known| known.kind == key.kind))
        };
        let denials = self.reader.denials(seen, &format!("stands in a file that {reason}"));
        let denials = denials.into_iter().filter(|denial| !is_kept(denial));
        Refusal { reason, denials: denials.map(|denial| (denial.key, denial.claim)).collect() }
    }
}

impl Store {
    /// Takes that a file cannot be read. What it said stays.
    pub fn refuse(&mut self, file: &Text, refusal: Refusal) {
        let before = self.files.entry(file.clone()).or_default().refusal.take();
        self.retract_denials(file, before);
        for (key, claim) in &refusal.denials {
            self.claim(key, whole(file), claim.clone());
        }
        self.files.entry(file.clone()).or_default().refusal = Some(refusal);
    }

    /// Takes back what a file denied because it could not be read.
    pub(super) fn retract_denials(&mut self, file: &Text, refusal: Option<Refusal>) {
        for (key, _) in refusal.into_iter().flat_map(|refusal| refusal.denials) {
            self.retract(&key, &whole(file));
        }
    }

    /// What is to be known of a file as a whole.
    pub(super) fn of_the_whole(&self, name: &Text, file: &File) -> Vec<Problem> {
        let refusal = file.refusal.as_ref().map(|refusal| self.refused(file, refusal));
        let complaints = refusal.into_iter().chain(self.emptied(file));
        complaints.map(|complaint| Problem { place: whole(name), line: 0, complaint }).collect()
    }

    fn refused(&self, file: &File, refusal: &Refusal) -> Complaint {
        let mut reason = refusal.reason.clone();
        let denies = refusal.denials.iter().filter(|(key, claim)| self.falls_back(key, claim));
        let denied: BTreeSet<&Text> = denies.map(|(key, _)| &key.name.namespace).collect();
        let effect = match (file.documents.is_empty(), denied.is_empty()) {
            (true, _) => Effect::Unread,
            (false, false) => Effect::Denies,
            (false, true) => Effect::LastGoodKept,
        };
        if !denied.is_empty() {
            let named = first_of(denied.iter().map(ToString::to_string), denied.len());
            reason +=
                &format!("; policies of namespace {named} that seem to stand in it deny all that they might");
        }
        if file.documents.is_empty() {
            let rest = if denied.is_empty() { "" } else { " else" };
            reason += &format!("; nothing{rest} of it is in force");
        }
        reason += "; until that is mended, an agent that starts puts nothing into force";
        Complaint { line: 0, object: None, field: None, reason, effect }
    }

    /// Of objects that went because their file is empty, and stand nowhere else.
    fn emptied(&self, file: &File) -> Option<Complaint> {
        let gone = file.emptied.iter().filter(|key| !self.claims.contains_key(key)).count();
        let went = match gone {
            0 => return None,
            1 => "the object that it held is".to_owned(),
            count => format!("the {count} objects that it held are"),
        };
        let reason = format!(
            "is empty, so {went} gone: write them into it again, or delete the file if that was meant"
        );
        Some(Complaint { line: 0, object: None, field: None, reason, effect: Effect::Warning })
    }
}

fn whole(file: &Text) -> Place {
    Place { file: file.clone(), document: 0 }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_common::model::MeshSettings;

    use super::*;
    use crate::control::documents::{MAX_OBJECTS, Reader};

    const FILE: &str = "a.yaml";

    fn policy(namespace: &str, name: &str) -> String {
        format!(
            "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{}}\n"
        )
    }

    fn store() -> Store {
        Store::new(Reader::new(Arc::new(MeshSettings::default())))
    }

    /// Takes a text, or that it is refused.
    fn write(store: &mut Store, file: &str, text: &str) {
        let file: Text = file.into();
        match store.reader(&file).read(text) {
            Ok(text) => store.put(&file, text),
            Err(refusal) => store.refuse(&file, refusal),
        }
        store.changes();
    }

    /// A text of too many documents.
    fn too_many(text: &str) -> String {
        "a: 1\n---\n".repeat(MAX_OBJECTS) + text
    }

    /// Policies that are in force, with a star behind those that deny for want of being understood.
    fn policies(store: &Store) -> Vec<String> {
        let fault = |key: &ObjectKey| {
            let claims = &store.claims[key];
            if claims.values().any(|claim| store.falls_back(key, claim)) { "*" } else { "" }
        };
        let keys = store.in_force.keys().filter(|key| key.kind.is_policy());
        let mut names: Vec<String> = keys.map(|key| format!("{}{}", key.name, fault(key))).collect();
        names.sort();
        names
    }

    fn said(store: &Store) -> Vec<(Effect, String)> {
        let whole = store.problems().into_iter().filter(|problem| problem.place.document == 0);
        whole.map(|problem| (problem.complaint.effect, problem.complaint.reason)).collect()
    }

    #[test]
    fn a_new_file_that_is_refused_denies_what_its_policies_might() {
        let mut store = store();
        write(&mut store, FILE, &too_many(&policy("shop", "a")));
        assert_eq!(policies(&store), ["shop/a*"]);
        let [(Effect::Unread, reason)] = &said(&store)[..] else { panic!("{:?}", said(&store)) };
        assert!(reason.contains("policies of namespace shop that seem to stand in it deny"), "{reason}");
        write(&mut store, FILE, &policy("shop", "a"));
        assert_eq!((policies(&store), said(&store)), (vec!["shop/a".to_owned()], Vec::new()));
        write(&mut store, FILE, &too_many(&(policy("shop", "a") + "---\n" + &policy("bank", "b"))));
        assert_eq!(policies(&store), ["bank/b*", "shop/a"], "what it said before stays");
        assert_eq!(said(&store)[0].0, Effect::Denies);
        store.remove(FILE);
        store.changes();
        assert_eq!(policies(&store), [""; 0]);
    }

    #[test]
    fn a_list_that_grows_too_long_denies_nothing_that_it_allowed() {
        let mut store = store();
        let list = |pods: usize| {
            let pod = |index| format!("- {{apiVersion: v1, kind: Pod, metadata: {{name: p{index}}}}}\n");
            let pods: String = (0..pods).map(pod).collect();
            format!(
                "apiVersion: v1\nkind: List\nitems:\n- apiVersion: policy.nodemesh.dev/v1alpha1\n  kind: AuthorizationPolicy\n  metadata: {{name: a, namespace: shop}}\n  spec: {{}}\n{pods}"
            )
        };
        write(&mut store, FILE, &list(1));
        write(&mut store, FILE, &list(MAX_OBJECTS));
        assert_eq!((policies(&store), said(&store)[0].0), (vec!["shop/a".to_owned()], Effect::LastGoodKept));
        write(&mut store, "b.yaml", &list(MAX_OBJECTS));
        assert_eq!(policies(&store).len(), 2, "of the other file nothing was known");
    }

    #[test]
    fn more_policies_than_are_read_deny_everywhere() {
        let mut store = store();
        let policies: String =
            (0..=MAX_OBJECTS).map(|index| policy(&format!("n{index}"), "a") + "---\n").collect();
        write(&mut store, FILE, &policies);
        let root = &MeshSettings::default().root_namespace;
        let namespaces: Vec<&Text> = store.in_force.keys().map(|key| &key.name.namespace).collect();
        assert_eq!(namespaces, [root]);
    }

    #[test]
    fn an_emptied_file_is_told_of_until_its_objects_stand_elsewhere() {
        let mut store = store();
        let both = policy("shop", "a") + "---\n" + &policy("shop", "b");
        let refused = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {nodename: a}\n";
        write(&mut store, FILE, &(both.clone() + refused));
        for text in ["", "# nothing\n"] {
            write(&mut store, FILE, text);
            let [(Effect::Warning, reason)] = &said(&store)[..] else { panic!("{:?}", said(&store)) };
            assert!(reason.starts_with("is empty, so the 2 objects that it held are gone"), "{reason}");
        }
        // Also where they were in force only because the file could not be read any more.
        for text in [&*both, "kind: [", ""] {
            write(&mut store, FILE, text);
        }
        assert!(said(&store)[0].1.starts_with("is empty, so the 2 objects"), "{:?}", said(&store));
        write(&mut store, "b.yaml", &policy("shop", "a"));
        assert!(said(&store)[0].1.contains("the object that it held is gone"), "{:?}", said(&store));
        write(&mut store, "b.yaml", &both);
        assert_eq!(said(&store), []);
        store.remove("b.yaml");
        assert_eq!(said(&store).len(), 1);
        store.remove(FILE);
        assert_eq!(said(&store), [], "it was meant");
    }
}
