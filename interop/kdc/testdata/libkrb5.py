# Both sides of a KRB_AP exchange by MIT's libkrb5, which racoon2 and others stand on.
#   libkrb5.py accept KEYTAB REQUEST REPLY: reads a KRB_AP_REQ, writes the KRB_AP_REP.
#   libkrb5.py initiate CCACHE SERVER REQUEST REPLY: writes a KRB_AP_REQ, waits for the
#   KRB_AP_REP and checks it.
import ctypes
import os
import sys
import time

lib = ctypes.CDLL("libkrb5.so.3")
lib.krb5_get_error_message.restype = ctypes.c_char_p


class Data(ctypes.Structure):
    _fields_ = [("magic", ctypes.c_int32), ("length", ctypes.c_uint), ("data", ctypes.c_void_p)]


context = ctypes.c_void_p()
auth = ctypes.c_void_p()


def check(code, what):
    if code:
        sys.exit("%s: %s" % (what, lib.krb5_get_error_message(context, code).decode()))


def data(b):
    d = Data(0, len(b), None)
    d.buffer = ctypes.create_string_buffer(b, len(b))
    d.data = ctypes.cast(d.buffer, ctypes.c_void_p)
    return d


def write(path, d):
    with open(path + ".new", "wb") as f:
        f.write(ctypes.string_at(d.data, d.length))
    os.rename(path + ".new", path)


def read(path):
    with open(path, "rb") as f:
        return data(f.read())


def accept(keytab, request, reply):
    kt = ctypes.c_void_p()
    check(lib.krb5_kt_resolve(context, b"FILE:" + keytab.encode(), ctypes.byref(kt)), "keytab")
    options = ctypes.c_int32()
    d = read(request)
    check(lib.krb5_rd_req(context, ctypes.byref(auth), ctypes.byref(d), None, kt, ctypes.byref(options), None), "krb5_rd_req")
    if options.value & 0xFFFFFFFF != 0x20000000:
        sys.exit("options %x" % options.value)
    out = Data()
    check(lib.krb5_mk_rep(context, auth, ctypes.byref(out)), "krb5_mk_rep")
    write(reply, out)


class Creds(ctypes.Structure):
    _fields_ = [("magic", ctypes.c_int32), ("client", ctypes.c_void_p), ("server", ctypes.c_void_p), ("rest", ctypes.c_char * 256)]


def initiate(ccache, server, request, reply):
    cc = ctypes.c_void_p()
    check(lib.krb5_cc_resolve(context, b"FILE:" + ccache.encode(), ctypes.byref(cc)), "credential cache")
    want = Creds()
    check(lib.krb5_cc_get_principal(context, cc, ctypes.byref(ctypes.c_void_p.from_buffer(want, Creds.client.offset))), "client")
    check(lib.krb5_parse_name(context, server.encode(), ctypes.byref(ctypes.c_void_p.from_buffer(want, Creds.server.offset))), "server")
    got = ctypes.c_void_p()
    check(lib.krb5_get_credentials(context, 0, cc, ctypes.byref(want), ctypes.byref(got)), "krb5_get_credentials")
    out = Data()
    check(lib.krb5_mk_req_extended(context, ctypes.byref(auth), ctypes.c_int32(0x20000000), None, got, ctypes.byref(out)), "krb5_mk_req_extended")
    write(request, out)
    end = time.time() + 20
    while not os.path.exists(reply):
        if time.time() > end:
            sys.exit("no reply")
        time.sleep(0.01)
    d = read(reply)
    part = ctypes.c_void_p()
    check(lib.krb5_rd_rep(context, auth, ctypes.byref(d), ctypes.byref(part)), "krb5_rd_rep")


check(lib.krb5_init_context(ctypes.byref(context)), "context")
check(lib.krb5_auth_con_init(context, ctypes.byref(auth)), "authentication context")
{"accept": accept, "initiate": initiate}[sys.argv[1]](*sys.argv[2:])
print("done")
