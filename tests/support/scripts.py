"""Saves as programs make them: the calls on the files of the directory, as strace recorded them.

Calls end in `;`. Files that are opened have numbers; `doc` is the name of the document; numbers are bytes,
and `␣` is a blank in a name.
`!ERRNO` is how a call failed and the program went on, `?ERRNO` where only a mount of labfs refuses it; `*N`
repeats. Left out are what a program reads elsewhere, empty reads, stats of open files, locks (the kernel keeps
them) and access lists. Put in are plain writes where bytes go from file to file within the kernel (cp, gio:
there the sizes are ours) and a plain rename for Emacs's RENAME_NOREPLACE; curl's 45 writes are cut to five.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Script:
    program: str  # the name of the process
    version: str
    before: int | None  # the size of the document that is there, if one is
    recorded: str

    @property
    def calls(self) -> list[str]:
        return [call.strip() for call in self.recorded.split(";") if call.strip()]


SCRIPTS = {
    "vim": Script(
        "vim",
        "Vim 9.0, backup, backupcopy=no",
        4,
        """
        stat doc; open 1 doc rdonly; open 2 .doc.swp rdwr,creat,excl 600; open 3 .doc.swx rdwr,creat,excl 600;
        close 3; unlink .doc.swx; close 2; unlink .doc.swp; stat .doc.swp !ENOENT;
        open 4 .doc.swp rdwr,creat,excl,nofollow 600; seek 4 0 set; write 4 4096; chmod .doc.swp; close 1;
        open 5 doc rdonly; read 5 4; close 5; seek 4 0 set; write 4 4096; stat doc; stat doc~ !ENOENT;
        unlink doc~ !ENOENT; rename doc doc~; open 6 doc wronly,creat 644; truncate 6 0; write 6 8; fsync 6;
        stat doc; fchmod 6 0100644; close 6; seek 4 0 set; write 4 4096; stat doc; close 4; unlink .doc.swp;
        """,
    ),
    "vim-copy": Script(
        "vim",
        "Vim 9.0, writebackup, backupcopy=yes",
        4,
        """
        stat doc; open 1 doc rdonly; open 2 .doc.swp rdwr,creat,excl 600; open 3 .doc.swx rdwr,creat,excl 600;
        close 3; unlink .doc.swx; close 2; unlink .doc.swp; stat .doc.swp !ENOENT;
        open 4 .doc.swp rdwr,creat,excl,nofollow 600; seek 4 0 set; write 4 4096; chmod .doc.swp; close 1;
        open 5 doc rdonly; read 5 4; close 5; seek 4 0 set; write 4 4096; stat doc; open 6 doc rdonly;
        stat doc~ !ENOENT; unlink doc~ !ENOENT; open 7 doc~ wronly,creat,excl,nofollow 644; read 6 4; write 7 4;
        close 7; utimens doc~; close 6; open 8 doc wronly,creat 644; truncate 8 0; write 8 8; fsync 8;
        fchmod 8 0100644; close 8; seek 4 0 set; write 4 4096; stat doc; unlink doc~; close 4; unlink .doc.swp;
        """,
    ),
    "vim-auto": Script(
        "vim",
        "Vim 9.0, writebackup, backupcopy=auto: it tries with 4913 whether files can be made",
        4,
        """
        stat doc; open 1 doc rdonly; open 2 .doc.swp rdwr,creat,excl 600; open 3 .doc.swx rdwr,creat,excl 600;
        close 3; unlink .doc.swx; close 2; unlink .doc.swp; stat .doc.swp !ENOENT;
        open 4 .doc.swp rdwr,creat,excl,nofollow 600; seek 4 0 set; write 4 4096; chmod .doc.swp; close 1;
        open 5 doc rdonly; read 5 4; close 5; seek 4 0 set; write 4 4096; stat doc; stat 4913 !ENOENT;
        open 6 4913 wronly,creat,excl,nofollow 100644; fchown 6; stat 4913; close 6; unlink 4913;
        stat doc~ !ENOENT; stat doc; stat doc~ !ENOENT; unlink doc~ !ENOENT; rename doc doc~;
        open 7 doc wronly,creat 644; truncate 7 0; write 7 8; fsync 7; stat doc; fchmod 7 0100644; close 7;
        seek 4 0 set; write 4 4096; stat doc; unlink doc~; close 4; unlink .doc.swp;
        """,
    ),
    "emacs": Script(
        "emacs",
        "GNU Emacs 28.2, with backups and locks",
        4,
        """
        open 1 doc rdonly; read 1 4; close 1; stat doc; symlink somebody .#doc ?EPERM;
        open 2 .#-emacsY5R2sO rdwr,creat,excl 600; write 2 12; fchmod 2 0644; close 2;
        rename .#-emacsY5R2sO .#doc; stat doc; rename doc doc~; stat doc !ENOENT; symlink somebody .#doc !EEXIST;
        open 3 .#doc rdonly,nofollow; read 3 12; close 3; open 4 doc wronly,creat,trunc 666; write 4 8; close 4;
        open 5 doc wronly; close 5; open 6 .#doc rdonly,nofollow; read 6 12; close 6; unlink .#doc; chmod doc;
        """,
    ),
    "nano": Script(
        "nano",
        "GNU nano 7.2",
        4,
        """
        stat doc; stat .doc.swp !ENOENT; unlink .doc.swp !ENOENT; open 1 .doc.swp wronly,creat,excl 666;
        write 1 1024; close 1; stat doc; open 2 doc rdonly; read 2 4; close 2; stat doc; unlink .doc.swp;
        open 3 .doc.swp wronly,creat,excl 666; write 3 1024; close 3; stat doc; open 4 doc wronly,creat,trunc 666;
        write 4 9; fsync 4; close 4; stat doc; unlink .doc.swp;
        """,
    ),
    "nano-backup": Script(
        "nano",
        "GNU nano 7.2, --backup",
        4,
        """
        stat doc; stat .doc.swp !ENOENT; unlink .doc.swp !ENOENT; open 1 .doc.swp wronly,creat,excl 666;
        write 1 1024; close 1; stat doc; open 2 doc rdonly; read 2 4; close 2; stat doc; unlink .doc.swp;
        open 3 .doc.swp wronly,creat,excl 666; write 3 1024; close 3; stat doc; unlink doc~ !ENOENT;
        open 4 doc~ wronly,creat,excl 600; fchown 4; fchmod 4 0100644; open 5 doc rdonly; read 5 4; close 5;
        write 4 4; fsync 4; futimens 4; close 4; open 6 doc wronly,creat,trunc 666; write 6 9; fsync 6; close 6;
        stat doc; unlink .doc.swp;
        """,
    ),
    "sed": Script(
        "sed",
        "GNU sed 4.9, -i",
        4,
        """
        open 1 doc rdonly; open 2 sedGPmZfE rdwr,creat,excl 600; read 1 4; fchown 2; close 1; write 2 4; close 2;
        rename sedGPmZfE doc;
        """,
    ),
    "sed-bak": Script(
        "sed",
        "GNU sed 4.9, -i~",
        4,
        """
        open 1 doc rdonly; open 2 sed2Gj88a rdwr,creat,excl 600; read 1 4; fchown 2; close 1; write 2 4; close 2;
        rename doc doc~; rename sed2Gj88a doc;
        """,
    ),
    "jupyter": Script(
        "python",
        "jupyter_server 2.21.1, a save through its contents API",
        4,
        """
        stat doc; stat .~doc !ENOENT; open 1 doc rdonly; open 2 .~doc wronly,creat,trunc 666; read 1 4; write 2 4;
        close 2; close 1; utimens .~doc; chmod .~doc; open 3 doc wronly,creat,trunc 666; write 3 222; fsync 3;
        close 3; stat .~doc; unlink .~doc;
        """,
    ),
    "jetbrains": Script(
        "java",
        "the safe write of JetBrains' IDEs, as it is described",
        4,
        """
        open 1 doc___jb_tmp___ wronly,creat,trunc 666; write 1 8; close 1; rename doc doc___jb_old___;
        rename doc___jb_tmp___ doc; unlink doc___jb_old___;
        """,
    ),
    "chrome": Script(
        "chrome",
        "a download of Chrome, as it is described",
        None,
        """
        open 1 Unconfirmed␣499231.crdownload wronly,creat,excl 666; write 1 1000; close 1;
        open 2 doc wronly,creat,excl 666; close 2; rename Unconfirmed␣499231.crdownload doc;
        """,
    ),
    "chrome-over": Script(
        "chrome",
        "the same over a file",
        4,
        """
        open 1 Unconfirmed␣499231.crdownload wronly,creat,excl 666; write 1 1000; close 1;
        rename Unconfirmed␣499231.crdownload doc;
        """,
    ),
    "office": Script(
        "smbd",
        "a save of Word through Samba, as it is described",
        4,
        """
        open 1 A1B2C3D4.tmp rdwr,creat,excl 744; write 1 9; close 1; rename doc E5F60718.tmp; rename A1B2C3D4.tmp doc;
        unlink E5F60718.tmp;
        """,
    ),
    "perl": Script(
        "perl",
        "perl 5.36 -pi",
        9,
        """
        open 1 doc rdonly; open 2 XXLi09Pm rdwr,creat,excl 600; stat XXLi09Pm; fchmod 2 100644; read 1 9; write 2 9;
        close 2; rename XXLi09Pm doc; close 1;
        """,
    ),
    "perl-old": Script(
        "perl",
        "perl 5.26 -pi, which unlinks the file that it reads and makes it anew, as it is described",
        9,
        """
        open 1 doc rdonly; unlink doc; open 2 doc wronly,creat,excl 600; read 1 9; write 2 9; fchmod 2 0644; close 2;
        close 1;
        """,
    ),
    "zip-u": Script(
        "zip",
        "Info-ZIP 3.0, zip -u",
        500,
        """
        open 1 doc rdonly; close 1; open 2 doc rdonly; read 2 500; close 2; open 3 doc rdwr; close 3;
        open 4 ziexE72L rdwr,creat,excl 600; open 5 doc rdonly; read 5 500; write 4 700; close 4; close 5; stat doc;
        unlink doc; rename ziexE72L doc; chmod doc;
        """,
    ),
    "patch": Script(
        "patch",
        "GNU patch 2.7.6",
        9,
        """
        stat doc; open 1 doc.ohhdCcc wronly,creat,excl 644; open 2 doc rdonly,nofollow; read 2 9; close 2;
        stat doc.ohhdCcc; write 1 12; close 1; chmod doc.ohhdCcc; rename doc.ohhdCcc doc;
        """,
    ),
    "qsavefile": Script(
        "python",
        "Qt 6.12, QSaveFile of a new document, on a file system without O_TMPFILE",
        None,
        """
        stat doc !ENOENT; open 1 doc.DqBtZd rdwr,creat,excl 666; stat doc.DqBtZd; close 1; unlink doc.DqBtZd;
        open 2 doc.DdCVlS rdwr,creat,excl 600; stat doc.DdCVlS; fchmod 2 0644; write 2 5000; fsync 2; close 2;
        rename doc.DdCVlS doc;
        """,
    ),
    "qsavefile-over": Script(
        "kate",
        "Qt 6.12, QSaveFile over a document",
        4,
        """
        stat doc; open 1 doc.RUVSqX rdwr,creat,excl 600; stat doc.RUVSqX; fchmod 1 0644; write 1 5000; fsync 1;
        close 1; rename doc.RUVSqX doc;
        """,
    ),
    "rclone": Script(
        "rclone",
        "rclone 1.75.2 copy",
        None,
        """
        open 1 doc.2c97aeb8.partial wronly,creat,trunc 666; write 1 4096; write 1 500; close 1;
        utimens doc.2c97aeb8.partial; stat doc.2c97aeb8.partial; stat doc !ENOENT; rename doc.2c97aeb8.partial doc;
        stat doc;
        """,
    ),
    "tar-over": Script(
        "tar",
        "GNU tar 1.34 x over a file",
        4,
        """
        open 0 doc wronly,creat,excl 600 !EEXIST; unlink doc; open 1 doc wronly,creat,excl 600; write 1 10240;
        futimens 1; fchmod 1 0644; close 1;
        """,
    ),
    "unzip-over": Script(
        "unzip",
        "UnZip 6.00 -o",
        4,
        """
        stat doc; unlink doc; open 1 doc rdwr,creat,trunc 666; write 1 10240; fchmod 1 100644; close 1; utimens doc;
        """,
    ),
    "java-copy-over": Script(
        "java",
        "OpenJDK 17, Files.copy with REPLACE_EXISTING",
        4,
        """
        stat doc; unlink doc; open 1 doc wronly,creat,excl 644; write 1 10; close 1;
        """,
    ),
    "rsync": Script(
        "rsync",
        "rsync 3.5.0, -a",
        None,
        """
        stat doc !ENOENT; open 1 .doc.D9tNT7 rdwr,creat,excl,nofollow 600; fchmod 1 0600; write 1 262144;
        write 1 37856; close 1; stat .doc.D9tNT7; utimens .doc.D9tNT7; stat .doc.D9tNT7;
        open 2 .doc.D9tNT7 rdonly,nofollow; fchmod 2 0644; close 2; rename .doc.D9tNT7 doc;
        """,
    ),
    "rsync-over": Script(
        "rsync",
        "rsync 3.5.0, -a, over an older file",
        300000,
        """
        stat doc; open 1 doc rdonly,nofollow; open 2 .doc.AUMAa6 rdwr,creat,excl,nofollow 600; fchmod 2 0600;
        write 2 262144; write 2 37856; close 1; close 2; stat .doc.AUMAa6; utimens .doc.AUMAa6; stat .doc.AUMAa6;
        open 3 .doc.AUMAa6 rdonly,nofollow; fchmod 3 0644; close 3; rename .doc.AUMAa6 doc;
        """,
    ),
    "rsync-inplace": Script(
        "rsync",
        "rsync 3.5.0, -a --inplace --no-whole-file",
        300000,
        """
        stat doc; open 1 doc rdonly,nofollow; read 1 263168; read 1 36832; close 1; open 2 doc rdonly,nofollow;
        open 3 doc wronly,creat 600; write 3 262144; write 3 37856; truncate 3 300000; close 2; close 3; stat doc;
        utimens doc;
        """,
    ),
    "cp": Script(
        "cp",
        "GNU cp 9.1, -a",
        None,
        """
        stat doc !ENOENT; open 2 doc wronly,creat,excl 600; write 2 131072 *2; write 2 37856; futimens 2; close 2;
        """,
    ),
    "tar": Script(
        "tar",
        "GNU tar 1.34, x",
        None,
        """
        open 2 doc wronly,creat,excl 600; write 2 4; futimens 2; fchown 2; fchmod 2 0644; close 2;
        """,
    ),
    "unzip": Script(
        "unzip",
        "UnZip 6.00",
        None,
        """
        stat doc !ENOENT; open 2 doc rdwr,creat,trunc 666; write 2 4; fchmod 2 0100644; close 2; utimens doc;
        """,
    ),
    "shutil": Script(
        "python3",
        "Python 3.11, shutil.copy2",
        None,
        """
        stat doc !ENOENT; open 2 doc wronly,creat,trunc 666; write 2 300000; write 2 0; close 2; utimens doc;
        chmod doc;
        """,
    ),
    "soffice-convert": Script(
        "soffice.bin",
        "LibreOffice 7.4.7, --convert-to",
        None,
        """
        open 1 lu31638eg52x.tmp rdwr,creat,excl 600; close 1; stat lu31638eg52x.tmp; open 2 lu31638eg52x.tmp rdwr;
        open 3 .~lock.doc# rdwr,creat,excl 666; pread 3 0 0; pwrite 3 44 0; close 3; stat lu31638eg52x.tmp;
        pread 2 0 0; pwrite 2 4096 0; pread 2 0 4096; pwrite 2 4096 4096; pread 2 0 8192; pwrite 2 139 8192;
        fsync 2; close 2; stat lu31638eg52x.tmp; open 4 lu31638eg52x.tmp rdonly; open 5 doc rdwr,creat,excl 666;
        pread 4 8331 0; pwrite 5 8331 0; close 5; close 4; stat lu31638eg52x.tmp; unlink lu31638eg52x.tmp;
        open 6 doc rdwr; fsync 6; close 6; stat doc; stat .~lock.doc#; open 7 .~lock.doc# rdonly; pread 7 44 0;
        close 7; stat .~lock.doc#; unlink .~lock.doc#;
        """,
    ),
    "soffice-convert-over": Script(
        "soffice.bin",
        "LibreOffice 7.4.7, --convert-to, over an older file",
        8331,
        """
        stat doc; open 1 lu31719eg6lk.tmp rdwr,creat,excl 600; close 1; stat lu31719eg6lk.tmp;
        open 2 lu31719eg6lk.tmp rdwr; open 3 doc rdwr; stat doc; open 4 .~lock.doc# rdwr,creat,excl 666;
        pread 4 0 0; pwrite 4 44 0; close 4; close 3; stat doc; stat lu31719eg6lk.tmp; pread 2 0 0;
        pwrite 2 4096 0; pread 2 0 4096; pwrite 2 4096 4096; pread 2 0 8192; pwrite 2 140 8192; fsync 2; close 2;
        stat doc; open - doc rdwr,creat,excl !EEXIST; stat doc; rename lu31719eg6lk.tmp doc; chown doc; chmod doc;
        stat lu31719eg6lk.tmp !ENOENT; open 5 doc rdwr; fsync 5; close 5; stat doc; stat .~lock.doc#;
        open 6 .~lock.doc# rdonly; pread 6 44 0; close 6; stat .~lock.doc#; unlink .~lock.doc#;
        """,
    ),
    "soffice-store": Script(
        "soffice.bin",
        "LibreOffice 7.4.7, a document is opened, changed and saved",
        8331,
        """
        stat doc; open 1 doc rdwr; pread 1 4096 0; pread 1 4096 4096; pread 1 139 8192; pread 1 4096 4096;
        pread 1 139 8192; pread 1 4096 4096; pread 1 4096 0; stat doc; open 2 doc rdonly; close 2; stat doc;
        open 3 .~lock.doc# rdwr,creat,excl 666; pread 3 0 0; pwrite 3 44 0; close 3; stat doc; open 4 doc rdonly;
        pread 4 8331 0; close 4; stat doc; open 5 doc rdonly; pread 5 8331 0; close 5; close 1; stat doc;
        stat .~lock.doc#; open 6 .~lock.doc# rdonly; pread 6 44 0; close 6; stat .~lock.doc#; unlink .~lock.doc#;
        open 7 lu31805eg9h8.tmp rdwr,creat,excl 600; close 7; stat lu31805eg9h8.tmp; open 8 lu31805eg9h8.tmp rdwr;
        open 9 doc rdwr; stat doc; open 10 .~lock.doc# rdwr,creat,excl 666; pread 10 0 0; pwrite 10 44 0;
        close 10; close 9; stat doc; stat lu31805eg9h8.tmp; pread 8 0 0; pwrite 8 4096 0; pread 8 0 4096;
        pwrite 8 4096 4096; pread 8 0 8192; pwrite 8 427 8192; fsync 8; close 8; stat doc;
        open - doc rdwr,creat,excl !EEXIST; stat doc; rename lu31805eg9h8.tmp doc; chown doc; chmod doc;
        stat lu31805eg9h8.tmp !ENOENT; open 11 doc rdwr; fsync 11; close 11; stat doc; open 12 doc rdwr; stat doc;
        open 13 doc rdonly; pread 13 8619 0; close 13; close 12; stat doc; open 14 doc rdwr; stat doc; close 14;
        stat doc; stat .~lock.doc#; open 15 .~lock.doc# rdonly; pread 15 44 0; close 15; stat .~lock.doc#;
        unlink .~lock.doc#;
        """,
    ),
    "gio-copy": Script(
        "gio",
        "GLib 2.74.6, as file managers copy",
        None,
        """
        open 1 doc wronly,creat,excl 644; write 1 262144; write 1 37856; close 1; stat doc; utimens doc;
        """,
    ),
    "gio-copy-over": Script(
        "gio",
        "GLib 2.74.6, as file managers copy over a file",
        8,
        """
        open - doc wronly,creat,excl !EEXIST; open 1 doc wronly,creat,nofollow 644;
        open 2 .goutputstream-NQ4BZ3 wronly,creat,excl 644; close 1; write 2 262144; write 2 37856; fsync 2;
        rename .goutputstream-NQ4BZ3 doc; close 2; stat doc; utimens doc;
        """,
    ),
    "gio-save": Script(
        "gio",
        "GLib 2.74.6, as gedit saves",
        4,
        """
        open - doc wronly,creat,excl !EEXIST; open 2 doc wronly,creat,nofollow 666;
        open 3 .goutputstream-PI6DZ3 wronly,creat,excl 666; fchown 3; fchmod 3 0644; close 2; write 3 8; fsync 3;
        rename .goutputstream-PI6DZ3 doc; close 3;
        """,
    ),
    "curl": Script(
        "curl",
        "curl 7.88.1, -o",
        None,
        """
        open 1 doc wronly,creat,trunc 666; write 1 16384; write 1 4096; write 1 12288; write 1 4096;
        write 1 12288; close 1;
        """,
    ),
    "wget": Script(
        "wget",
        "GNU Wget 1.21.3",
        None,
        """
        stat doc !ENOENT; open 1 doc wronly,creat,trunc 666; write 1 8192; write 1 4096 *45; write 1 1024;
        write 1 4096 *23; write 1 1024; write 1 4096 *2; write 1 3040; close 1; utimens doc;
        """,
    ),
    "wget-c": Script(
        "wget",
        "GNU Wget 1.21.3, -c, after 3 of 8 bytes",
        3,
        """
        stat doc; open 1 doc wronly,creat,append 666; seek 1 0 end; write 1 5; close 1; utimens doc;
        """,
    ),
    "pandas": Script(
        "python",
        "pandas 3.1.1, to_csv",
        None,
        """
        open 1 doc wronly,creat,trunc 666; write 1 8183; write 1 8190 *10; write 1 8192; write 1 8184 *14;
        write 1 4932; close 1;
        """,
    ),
    "h5py": Script(
        "python",
        "h5py 3.16.0, a data set is added",
        12096,
        """
        open 1 doc rdwr; pread 1 8 0; pread 1 48 0; pread 1 48 48; pread 1 512 96; pread 1 544 136;
        pread 1 512 680; stat doc; pwrite 1 96 0; pread 1 328 1072; pwrite 1 8000 12096; pwrite 1 664 136;
        pwrite 1 328 1072; pwrite 1 272 10048; pwrite 1 96 0 *2; close 1;
        """,
    ),
}
