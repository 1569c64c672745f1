//! PURE. Which fields a type knows at a place, asked of the type itself: its `Deserialize` names them.

use serde::de::value::Error as Nothing;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess};
use serde::de::{SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

/// A step into an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Any entry of a list.
    Entry,
    /// A field.
    Field(String),
}

/// The fields that a type has where these steps lead; none where it takes any.
pub(super) fn known<K: DeserializeOwned>(steps: &[Step]) -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // What comes of it is nothing: there is no object to be read.
    drop(K::deserialize(Probe { steps, fields: &mut fields }));
    fields
}

/// Follows the steps, and asks at their end.
struct Probe<'a> {
    steps: &'a [Step],
    fields: &'a mut &'static [&'static str],
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Nothing;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Nothing> {
        Err(Nothing::custom("nothing is here"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Nothing> {
        if self.steps.is_empty() {
            *self.fields = fields;
            return Err(Nothing::custom("they are told"));
        }
        visitor.visit_map(self)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Nothing> {
        visitor.visit_map(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Nothing> {
        visitor.visit_seq(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Nothing> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Nothing> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple
        tuple_struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Probe<'_> {
    type Error = Nothing;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Nothing> {
        let [Step::Field(field), ..] = self.steps else { return Ok(None) };
        seed.deserialize(field.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Nothing> {
        // Each step is taken once: a value that needs nothing would lead back here for ever.
        let steps = std::mem::take(&mut self.steps).get(1..).unwrap_or_default();
        seed.deserialize(Probe { steps, fields: &mut *self.fields })
    }
}

impl<'de> SeqAccess<'de> for Probe<'_> {
    type Error = Nothing;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Nothing> {
        let [Step::Entry, steps @ ..] = std::mem::take(&mut self.steps) else { return Ok(None) };
        seed.deserialize(Probe { steps, fields: &mut *self.fields }).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::control::resources::AuthorizationPolicy;

    fn steps(path: &str) -> Vec<Step> {
        let step = |name: &str| if name == "*" { Step::Entry } else { Step::Field(name.to_owned()) };
        path.split_whitespace().map(step).collect()
    }

    #[test]
    fn a_type_tells_its_fields_at_any_depth() {
        assert_eq!(known::<Pod>(&[]), ["apiVersion", "kind", "metadata", "spec", "status"]);
        assert!(known::<Pod>(&steps("spec")).contains(&"nodeName"));
        assert!(known::<Pod>(&steps("spec containers * ports *")).contains(&"containerPort"));
        assert_eq!(known::<AuthorizationPolicy>(&steps("spec rules *")), ["from", "to", "when"]);
        for nothing in ["metadata labels", "metadata labels a", "spec nodeName", "spec *", "spac", "*"] {
            assert_eq!(known::<Pod>(&steps(nothing)), [""; 0], "{nothing}");
        }
    }
}
