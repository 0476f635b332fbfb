//! Typed parameters: libvirt's lists of names with values.

use std::ffi::{CStr, c_int, c_uint};

use virt_sys as c;

/// A value of a typed parameter.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::libvirt) enum Value {
    /// Any of the signed integers.
    Int(i64),
    /// Any of the unsigned integers.
    Unsigned(u64),
    /// A floating point number.
    Double(f64),
    /// Yes or no.
    Boolean(bool),
    /// Text; what is not UTF-8 in it is replaced, as it comes from the guest.
    Text(String),
}

/// Copies and frees a list of parameters; those of a type that is not known are left out.
///
/// # Safety
/// `params` must be null or `count` parameters that libvirt allocated for the caller and that nobody else
/// frees or uses.
pub(super) unsafe fn take_params(params: c::virTypedParameterPtr, count: c_int) -> Vec<(String, Value)> {
    if params.is_null() {
        return Vec::new();
    }
    let len = usize::try_from(count).unwrap_or(0);
    // SAFETY: not null, and `len` parameters long by this function's contract.
    let copy = unsafe { std::slice::from_raw_parts(params, len) }
        .iter()
        // SAFETY: filled in by libvirt.
        .filter_map(|param| unsafe { read(param) })
        .collect();
    // SAFETY: ours, from libvirt, and not used after this.
    unsafe { c::virTypedParamsFree(params, count) };
    copy
}

/// Name and value.
///
/// # Safety
/// `param` must have been filled in by libvirt: the type says which member of the union holds.
unsafe fn read(param: &c::virTypedParameter) -> Option<(String, Value)> {
    let name: Vec<u8> = param.field.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0).collect();
    // SAFETY: each arm reads the member that the type stands for; a string is a C string or null.
    let value = unsafe {
        match param.type_ as c_uint {
            c::VIR_TYPED_PARAM_INT => Value::Int(param.value.i.into()),
            c::VIR_TYPED_PARAM_UINT => Value::Unsigned(param.value.ui.into()),
            c::VIR_TYPED_PARAM_LLONG => Value::Int(param.value.l),
            c::VIR_TYPED_PARAM_ULLONG => Value::Unsigned(param.value.ul),
            c::VIR_TYPED_PARAM_DOUBLE => Value::Double(param.value.d),
            c::VIR_TYPED_PARAM_BOOLEAN => Value::Boolean(param.value.b != 0),
            c::VIR_TYPED_PARAM_STRING if !param.value.s.is_null() => {
                Value::Text(CStr::from_ptr(param.value.s).to_string_lossy().into_owned())
            }
            _ => return None,
        }
    };
    Some((String::from_utf8_lossy(&name).into_owned(), value))
}
