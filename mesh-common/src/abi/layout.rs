//! `abi_layout!`: the compile-time proof that a shared type has the bytes that both sides think it has.

/// Fails the build when `$name` has another size or alignment than stated, implicit padding, or a field that the
/// list does not name.
macro_rules! abi_layout {
    ($name:ident { $($field:ident: $kind:ty),+ $(,)? } size $size:literal align $align:literal) => {
        const _: () = {
            assert!(core::mem::size_of::<$name>() == $size, "size differs from what is stated");
            assert!(core::mem::align_of::<$name>() == $align, "alignment differs from what is stated");
            assert!(0 $(+ core::mem::size_of::<$kind>())+ == $size, "the fields do not fill the type: padding");
            // A pattern without `..` names every field, each with the type stated.
            #[allow(dead_code)]
            fn every_field_is_named(value: &$name) {
                let $name { $($field),+ } = value;
                $(let _: &$kind = $field;)+
            }
        };
    };
}

pub(super) use abi_layout;
