"""Is a text commonplace by itself: does it stand in countless files because a rule, a tool or a language puts it there.

    notices    of licences and copyright: three words in a row that stand in the text of a well-known licence
    rulers     one sign, or one item of a list, again and again
    imports    statements that name what a file uses: Python, Java, JavaScript, Go, C, Rust, C#
    by tools   what Babel, protoc and Sphinx write; the slots of CPython's types; guards for C++; marks that tools read

What is left of a text without these is what it tells. It is commonplace if that is less than the shortest run that an
index ever reports, and no more than half of it. So no copy that would be found alone is commonplace, whatever notices,
rulers and imports stand around it.
"""

from __future__ import annotations

import re

LEAST_TELLING_CHARS = 50
LONGEST_CHARS = 10_000
"""A longer text is not looked at, and not commonplace."""

_WORDS_PER_GRAM = 3
_WORD = re.compile(r"([a-z]+)")


def _signs(table: str) -> tuple[str, ...]:
    return tuple(sign for line in table.strip().split("\n") for sign in line.strip().split("|"))


_NOTICES = """
Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
https://www.apache.org/ licenses/LICENSE-2.0 Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either
express or implied. See the License for the specific language governing permissions and limitations under the License.
Licensed to the Apache Software Foundation (ASF) under one or more contributor license agreements. See the NOTICE file
distributed with this work for additional information regarding copyright ownership. The ASF licenses this file to You
under the Apache License

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions: The above copyright notice
and this permission notice (including the next paragraph) shall be included in all copies or substantial portions of
the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT
LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL
THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN
THE SOFTWARE.

Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
following conditions are met: Redistributions of source code must retain the above copyright notice, this list of
conditions and the following disclaimer. Redistributions in binary form must reproduce the above copyright notice,
this list of conditions and the following disclaimer in the documentation and/or other materials provided with the
distribution. Neither the name of the copyright holder nor the names of its contributors may be used to endorse or
promote products derived from this software without specific prior written permission. THIS SOFTWARE IS PROVIDED BY
THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE
COPYRIGHT HOLDER (OWNER) OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR
CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE, DATA,
OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT
LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF THIS SOFTWARE, EVEN IF
ADVISED OF THE POSSIBILITY OF SUCH DAMAGE. THIS SOFTWARE IS PROVIDED BY THE AUTHOR AND CONTRIBUTORS AS IS. IN NO EVENT
SHALL THE AUTHOR OR CONTRIBUTORS BE LIABLE

This program is free software: you can redistribute it and/or modify it under the terms of the GNU General Public
License as published by the Free Software Foundation, either version 3 of the License, or (at your option) any later
version. This program is distributed in the hope that it will be useful, but WITHOUT ANY WARRANTY; without even the
implied warranty of MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE. See the GNU General Public License for more
details. You should have received a copy of the GNU General Public License along with this program. If not, see
<https://www.gnu.org/licenses/>. This library is free software; you can redistribute it and/or modify it under the
terms of the GNU Lesser General Public License (GNU Library General Public License, GNU Affero General Public License)
as published by the Free Software Foundation; version 2 of the License only. This library is distributed in the hope
that it will be useful. See the GNU Lesser General Public License for more details. You should have received a copy of
the GNU Lesser General Public License along with this library; if not, write to the Free Software Foundation, Inc., 51
Franklin Street, Fifth Floor, Boston, MA 02110-1301 USA; 59 Temple Place, Suite 330, Boston, MA 02111-1307 USA. This
code is free software; you can redistribute it. Oracle designates this particular file as subject to the "Classpath"
exception as provided by Oracle in the LICENSE file that accompanied this code. This code is distributed in the hope
that it will be useful. version 2 for more details (a copy is included in the LICENSE file that accompanied this
code). You should have received a copy of the GNU General Public License version 2 along with this work. Please
contact Oracle, 500 Oracle Parkway, Redwood Shores, CA 94065 USA or visit www.oracle.com if you need additional
information or have any questions. DO NOT ALTER OR REMOVE COPYRIGHT NOTICES OR THIS FILE HEADER.

Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby
granted, provided that the above copyright notice and this permission notice appear in all copies. THE SOFTWARE IS
PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES
OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR
CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF
CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS
SOFTWARE. This software is provided 'as-is', without any express or implied warranty. In no event will the authors be
held liable for any damages arising from the use of this software. Permission is granted to anyone to use this
software for any purpose, including commercial applications, and to alter it and redistribute it freely, subject to
the following restrictions: The origin of this software must not be misrepresented; you must not claim that you wrote
the original software. If you use this software in a product, an acknowledgment in the product documentation would be
appreciated but is not required. Altered source versions must be plainly marked as such, and must not be
misrepresented as being the original software. This notice may not be removed or altered from any source distribution.

This Source Code Form is subject to the terms of the Mozilla Public License, v. 2.0. If a copy of the MPL was not
distributed with this file, You can obtain one at https://mozilla.org/MPL/2.0/. Distributed under the Boost Software
License, Version 1.0. (See accompanying file LICENSE_1_0.txt or copy at http://www.boost.org/LICENSE_1_0.txt) This is
free and unencumbered software released into the public domain. Copyright The Authors and its contributors. All rights
reserved. Use of this source code is governed by a BSD-style (MIT-style, MIT) license that can be found in the LICENSE
file. This source code is licensed under the MIT license (the BSD-style license, the Apache License) found in the
LICENSE file in the root directory of this source tree. An additional grant of patent rights can be found in the
PATENTS file in the same directory. This file is part of. Released under the MIT license. Licensed under the MIT
license. See LICENSE in the project root for license information. See the LICENSE file for details. Copyright Inc. and
its affiliates. All rights
"""

_SPEAK_OF_LICENSES = _signs("""
    licen|copyright|(c)|©|spdx-|warrant|distribut|permission|merchantab|liab|conditions|software|damages|substitute
    foundation|disclaimer|notice|purpose|express|negligence|contract|granted|charge
""")
_COPYRIGHT_LINES = re.compile(
    r"^[ \t]*(?:[/#*;\"'<!-]+[ \t]*)?(?:copyright(?:[ \t]+\(c\)|[ \t]*©|[ \t]+\w)|\(c\)[ \t]*\d{4}|©|spdx-)[^\n]*",
    re.MULTILINE,
)

_RULERS = re.compile(r"([-=*#/_~+.<>^])\1{7,}")
_RULED_BY = tuple(sign * 8 for sign in "-=*#/_~+.<>^")
_ITEMS = re.compile(r"\b(\w{1,5})(?:\s*,\s*\1\b){7,}")
_LEAST_COMMAS = 7

_IMPORT_SIGNS = _signs("import|include|require|use |using |package |namespace |.com/|.org/|.net/|.io/|.in/")
_IMPORTS = re.compile(
    r"""(?mx) ^ [ \t]* (?:
      from [ \t]+ [\w.]+ [ \t]+ c?import [ \t]* (?: \( [\w\s.,]* \)? | [\w.,* \t]+ ) \r?$
    | c?import [ \t]+ (?:static[ \t]+)? [\w.,* \t]+ ;? \r?$
    | import [ \t]+ (?:type[ \t]+)? [\w$*{},\s]{1,400}? from [ \t]* ["'][^"'\n]*["'] ;?
    | (?:import|require|require_relative) [ \t]* \(? [ \t]* ["'][^"'\n]*["'] [ \t]* \)? ;? \r?$
    | (?:const|let|var) [ \t]+ [\w$:{}, \t]+ = [ \t]* require \( [ \t]* ["'][^"'\n]*["'] [ \t]* \) (?:\.\w+)? [,;]? \r?$
    | import [ \t]* \( \s* (?: (?:[\w.]+[ \t]+)? "[^"\n]*" \s* )* \)?
    | (?:[\w.]+[ \t]+)? "[\w.-]+(?:/[\w.-]+)+" \r?$
    | (?:pub[ \t]+)? (?:use|using|namespace|package) [ \t]+ [\w.:\\{},* \t]+ ;? \r?$
    | \# [ \t]* (?:include|import) \b [^\n]*
    )"""
)

_PIECES = re.compile(r"[^\n;]*[\n;]?")
_LONGEST_PIECE = 160
_TOOL_SIGNS = (
    # Babel and TypeScript
    *_signs("""
        _interopRequire|__esModule|_iteratorNormalCompletion|_didIteratorError|_iteratorError|_classCallCheck
        _possibleConstructorReturn|_getPrototypeOf|_objectWithoutProperties|_toConsumableArray|_objectSpread
        _asyncToGenerator|__importDefault|__importStar|__createBinding
    """),
    # protoc for Go
    *_signs("""
        protoimpl.|protobuf/runtime/protoimpl|.LoadMessageInfo()|.StoreMessageInfo(mi)|mi.MessageOf(x)
        &v.state|&v.sizeCache|&v.unknownFields|// Verify that this generated code|// Verify that runtime/proto
    """),
    # marks that tools read
    *_signs("""
        DO NOT EDIT|Do not edit|@generated|-*- coding|eslint-disable|eslint-enable|//go:build|// +build|'use strict'
        "use strict"|ifdef __cplusplus|extern "C" {
        Programming Language ::|Development Status ::|Intended Audience ::|License :: OSI|Operating System ::
    """),
)
_SLOTS = re.compile(
    r"(?:\b(?:0|NULL),[ \t]*)?/\*[ \t]*(?:tp|nb|sq|mp|bf|am)_\w+[ \t]*\*/"
    r"|Py_TPFLAGS_\w+|PyVarObject_HEAD_INIT"
)
_SPHINX_SIGNS = _signs("""
    templates_path|source_suffix|source_encoding|master_doc|pygments_style|add_module_names|add_function_parentheses
    html_static_path|html_show_|html_use_|html_short_title|html_favicon|html_logo = |html_split_index|html_sidebars
    htmlhelp_basename|modindex_common|latex_elements|latex_documents|latex_use_|latex_show_|latex_domain_indices
    texinfo_documents|texinfo_show_|texinfo_domain_indices|exclude_patterns = [|needs_sphinx|sphinx-quickstart
    sphinx.ext.|Sphinx extension module names|configuration values are present|values that are commented out
    to document with autodoc|by Sphinx. Refer|re documenting, acts as|set of Sphinx documents|document tree into
    contain templates here|theme to use for HTML|-- Options for HTML output|-- Options for manual page output
""")
_SPHINX_SETTINGS = re.compile(
    r"""(?mx) ^ [ \t]* (?:
      (?: (?:html|latex|man|texinfo|epub)\w* | templates_path | source_suffix | source_encoding | master_doc
        | today_fmt | exclude_\w+ | unused_docs | pygments_style | default_role | add_\w+ | show_authors
        | modindex_common_prefix | needs_sphinx | keep_warnings | extensions )
      [ \t]* = [ \t]* (?: \[? ["'] [^\n]* | \[ [^\n]* | \{ | \w+ ) \s? $
    | ["']sphinx\.ext\.\w+["'] [,\]]* \s? $ )"""
)
_COMMENT = re.compile(r"^[ \t]*#[^\n]*", re.MULTILINE)
_SPHINX_WORDS = frozenset(
    _WORD.findall("""
        about absolute abspath acts add added additional after all alpha also an and another any append appended
        appendices appendix are as at author authors autodoc autogenerated available bar base be being beta bottom
        build builder built builtin by call can chapters class coming commented common configuration contain
        containing content convert copyright correct created cross css current currently custom customize dashes
        default defaults description dir directives directories directory do docs document documentation documentclass
        documenting documents domain don each either else en encoding entities entry etc every execfile exist ext
        extension extensions external extra false favicon feel file filenames files finished fmt font footer for
        format from full func function further general generated given grouping have headings help here highlighting
        how howto html https if ignore ignored image in included including index indices individual info information
        inserted internal into is it its language languages large last latex letter letterpaper like link links list
        logo look looking major make manual manuals maps markup master match minimal modindex module moduleauthor
        modules must name named names navigation needs no non none nonempty not note of on one ones only opensearch
        option options or os other out output overwrite page pages paper papersize parentheses parts path paths
        patterns per pixels place places pointsize possible preamble prefix prefixes prepended present project
        pygments python quickstart quotes rc re refer reference references referring relative release rendered
        replacement replacing rest role root same searched section sectionauthor see serve served set sheets short
        shorter should shouldn show shown sidebar sidebars sig size smartypants so some sorting source sourcelink
        sources specific sphinx split start state static strftime strings stuff style such suffix supported syntax sys
        tag tags target template templates texinfo text that the theme themes then there these they this throughout
        timestamp title titles to toctree today top toplevel tree true tuples two typographically unit unused updated
        url use used using utf value values various version warnings we when which will windows with within xhtml you
        your
    """)
)
"""Of these words are the comments of a new conf.py; a line may have another one, as where it is cut."""


def commonplace(text: str) -> bool:
    """Return whether a text, as it was written and with its white space, tells nothing of where it comes from.

    Takes 5 to 20 microseconds for 200 characters, and up to 50 where they are a licence's.
    """
    if len(text) > LONGEST_CHARS:
        return False
    rest = text
    for strip in (_without_rulers, _without_imports, _without_tools, _without_notices):
        rest = strip(rest)
    if rest is text:
        return False
    chars = len("".join(rest.split()))
    return chars < LEAST_TELLING_CHARS and 2 * chars <= len("".join(text.split()))


def _holds(text: str, signs: tuple[str, ...]) -> bool:
    return any(sign in text for sign in signs)


def _without_rulers(text: str) -> str:
    if _holds(text, _RULED_BY):
        text = _RULERS.sub("", text)
    return _ITEMS.sub("", text) if text.count(",") >= _LEAST_COMMAS else text


def _without_imports(text: str) -> str:
    return _IMPORTS.sub("", text) if _holds(text, _IMPORT_SIGNS) else text


def _without_tools(text: str) -> str:
    """Return a text without what tools write: the statements or lines in which one of their signs stands."""
    if _holds(text, _TOOL_SIGNS):
        pieces = _PIECES.findall(text)
        text = "".join(piece for piece in pieces if len(piece) > _LONGEST_PIECE or not _holds(piece, _TOOL_SIGNS))
    if "_" in text and "*/" in text:
        text = _SLOTS.sub("", text)
    if _holds(text, _SPHINX_SIGNS):
        text = _COMMENT.sub(_not_of_sphinx, _SPHINX_SETTINGS.sub("", text))
    return text


def _not_of_sphinx(comment: re.Match[str]) -> str:
    words = set(_WORD.findall(comment[0].lower()))
    return "" if len(words - _SPHINX_WORDS) <= 1 else comment[0]


def _grams(words: list[str]) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(_WORDS_PER_GRAM)), strict=False))


_KNOWN = frozenset(_grams(_WORD.findall(_NOTICES.lower())))


def _without_notices(text: str) -> str:
    """Return a text without copyright lines and the words of notices, and what stands between two words of these."""
    lower = text.lower()
    if not _holds(lower, _SPEAK_OF_LICENSES):
        return text
    parts = _WORD.split(_COPYRIGHT_LINES.sub("", lower))  # what stands before a word, the word, and so on; the end
    words = parts[1::2]
    known = [False] * len(words)
    for number, gram in enumerate(_grams(words)):
        if gram in _KNOWN:
            known[number : number + _WORDS_PER_GRAM] = [True] * _WORDS_PER_GRAM
    kept = [parts[-1]]
    for number, word in enumerate(words):
        if not (known[number] and number and known[number - 1]):
            kept.append(parts[2 * number])
        if not known[number]:
            kept.append(word)
    return "".join(kept)
