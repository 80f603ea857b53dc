r"""The grader of answers in MATH's notations: tables of equal, different and undecidable pairs."""

from __future__ import annotations

import decimal
import math
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from ctwa.objectives.grading import grade

EQUAL = {
    "numbers": [
        ("7.0", "7"), ("007", "7"), ("7.", "7"), ("+7", "7"), (".5", "0.5"), ("0.50", "\\frac{1}{2}"), ("-2./5", "-0.4"),
        ("1000", "1,000"), ("12\\,500", "12500"), ("12,500", "12500"), ("12{,}500", "12500"), ("12\\!500", "12500"),
        ("12,\\!500", "12500"), ("12 500", "12500"), ("1\\,234\\,567", "1,234,567"), ("12 , \\! 500", "12500"),
        ("11111", "11,\\! 111"), ("12\\;500.5", "12500.5"), ("\\frac{12,500}{3}", "12500/3"),
        ("1/2", "\\frac12"), ("\\frac1{72}", "\\frac{1}{72}"), ("\\dfrac{1}{2}", "0.5"), ("\\tfrac12", "\\frac{1}{2}"),
        ("{1 \\over 2}", "1/2"), ("-\\frac{1}{2}", "\\frac{-1}{2}"), ("\\frac{1}{-2}", "-\\frac12"), ("\\frac 34", ".75"),
        ("3\\frac12", "7/2"), ("3 1/2", "3.5"), ("-3\\frac{1}{2}", "-3.5"), ("3½", "3.5"), ("3\\tfrac{1}{2}", "\\frac72"),
        ("0.\\overline{57}", "\\frac{19}{33}"), ("0.1\\bar{6}", "\\frac16"), ("0.\\overline{3}", "\\frac13"),
        ("0.\\dot{3}", "1/3"), ("0.333333", "\\frac{1}{3}"), ("0.6666667", "\\frac23"), ("3.14159", "\\pi"),
        ("1.414213", "\\sqrt2"), ("2 \\times 10^{-5}", "0.00002"), ("2\\cdot10^{3}", "2000"), ("2e-05", "0.00002"),
        ("1.5E3", "1500"), ("6.02 × 10²³", "6.02 \\times 10^{23}"), ("10^{-3}", "0.001"), ("5!", "120"), ("2^{10}", "1024"),
        ("2^10", "1024"), ("2**10", "1024"), ("\\binom{5}{2}", "10"), ("{5 \\choose 2}", "10"), ("\\dbinom{6}{3}", "20"),
        ("\\frac{1}{1998!}", "\\frac{1998}{1998 \\cdot 1998!}"), ("\\sum_{k=0}^{6} k", "21"), ("\\prod_{k=1}^{4} k", "24"),
        ("\\sum_{k=0}^{6}\\bigl(k\\bigr)", "\\sum_{j=1}^{6} j"), ("\\gcd(12, 18)", "6"), ("\\lfloor 3.7 \\rfloor", "3"),
        ("|-3|", "3"), ("\\left|{-3}\\right|", "3"), ("\\lvert -3 \\rvert", "3"), ("3^{2^{2}}", "81"),
        ("10^{40}+1", "1" + "0" * 39 + "1"), ("five", "5"), ("\\text{twelve}", "12"), ("twenty-one", "21"),
    ],
    "irrational and complex": [
        ("2\\sqrt{2}", "\\sqrt{8}"), ("\\frac{1}{\\sqrt3}", "\\frac{\\sqrt{3}}{3}"), ("5\\sqrt(3)", "5\\sqrt{3}"),
        ("√3", "\\sqrt{3}"), ("2√3", "2\\sqrt{3}"), ("√(3)", "\\sqrt3"), ("sqrt(3)", "\\sqrt{3}"), ("√12", "2\\sqrt3"),
        ("3^{1/2}", "\\sqrt{3}"), ("3^\\frac12", "\\sqrt{3}"), ("\\sqrt[3]{8}", "2"), ("∛8", "2"), ("\\sqrt[3]{-8}", "-2"),
        ("\\sqrt{3+2\\sqrt2}", "1+\\sqrt{2}"), ("π", "\\pi"), ("2pi", "2\\pi"), ("\\frac{\\pi}{6}", "\\frac16\\pi"),
        ("\\mathrm{e}^2", "e^2"), ("2 - \\frac{3}{\\mathrm{e}}", "2-3e^{-1}"), ("\\ln e", "1"), ("\\log_2 8", "3"),
        ("\\log_{10} 1000", "3"), ("\\sin\\frac{\\pi}{6}", "\\frac12"), ("\\cos 60^\\circ", "0.5"), ("\\arctan 1", "\\frac{\\pi}{4}"),
        ("\\tan^{-1} 1", "\\pi/4"), ("7i - 2", "-2 + 7i"), ("\\frac{1}{i}", "-i"), ("\\sqrt{-4}", "2i"), ("(1+i)^2", "2i"),
        ("e^{i\\pi}", "-1"), ("\\operatorname{arcsin} 1", "\\frac{\\pi}{2}"), ("∞", "\\infty"), ("infinity", "\\infty"),
        ("\\sin(\\pi)", "0"),
    ],
    "algebra": [
        ("(x+1)^2", "x^2 + 2x + 1"), ("q + p", "p + q"), ("cba", "abc"), ("\\sqrt{1/m}", "\\frac{1}{\\sqrt{m}}"),
        ("(b+2)(a+5)", "(a+5)(b+2)"), ("x^{10}", "x^10"), ("2*x", "2x"), ("x \\cdot y", "xy"), ("x²+1", "x^2+1"),
        ("m_p v^2(\\gamma^2-3)\\sin^2\\theta", "m_{p} v^{2}\\left(\\gamma^{2}-3\\right) \\sin ^{2} \\theta"),
        ("\\sin 2x", "2\\sin x\\cos x"), ("\\cot x", "\\frac{\\cos x}{\\sin x}"), ("x_{1}", "x_1"), ("x₁", "x_1"),
        ("\\frac{n(n+1)}{2}", "\\frac{n^2+n}{2}"), ("\\binom{n}{2}", "\\frac{n(n-1)}{2}"), ("(-1)^{n+2}", "(-1)^n"),
        ("\\sqrt{x^2}", "|x|"), ("\\ln x^2", "\\ln(x^2)"), ("\\varphi", "\\phi"), ("f(g(x))", "f(g(x))"),
        ("𝑥+1", "x+1"), ("x^{-1}", "1/x"), ("\\frac{a}{b}c", "\\frac{ac}{b}"), ("\\vec{v}", "\\vec v"),
        ("\\frac{h(b_1+b_2)}{2}", "\\frac12(b_1+b_2)h"), ("(n+1)!", "(n+1) \\cdot n!"), ("x\\sqrt{x}", "x^{3/2}"),
    ],
    "equations": [
        ("x=5", "5"), ("5", "x=5"), ("x = 3", "3"), ("5=x", "x=5"), ("y = 2x + 3", "2x+3"), ("2x+3", "y=2x+3"),
        ("y=3+2x", "y=2x+3"), ("2x - y + 3 = 0", "y=2x+3"), ("f(x) = 2x+3", "2x+3"), ("2+3=5", "5"), ("xy=1", "y=\\frac{1}{x}"),
        ("x^2+y^2-25=0", "x^2+y^2=25"), ("\\frac{x^2}{25}+\\frac{y^2}{25}=1", "x^2+y^2=25"), ("AB = 5", "5"),
        ("\\text{Area} = 12", "12"), ("\\angle ABC = 40^\\circ", "40"), ("a_3 = 7", "7"), ("m+n=109", "109"),
        ("\\sin\\theta = \\frac35", "\\frac35"), ("f(2)=7", "7"), ("P(A) = \\frac13", "1/3"), ("A = \\frac12 \\cdot 6 \\cdot 8 = 24", "24"),
        ("\\pi \\approx 3.14", "\\pi"), ("x \\approx 3.14", "3.14"), ("x \\equiv 3 \\pmod{7}", "3"), ("3 \\pmod 7", "3"),
        ("x\\equiv 3\\pmod 7", "x \\equiv 3 \\pmod{7}"), ("x=1, y=2", "y=2, x=1"), ("x=1,y=2", "(1,2)"),
    ],
    "sets, lists, intervals": [
        ("2, 1", "1,2"), ("2,1", "1, 2"), ("1 \\text{ and } 2", "1,2"), ("2 or 1", "1,2"), ("1; 2", "1,2"), ("1,2, and 3", "1,2,3"),
        ("x=-2 \\text{ or } x=1", "-2,1"), ("x=1, -2", "1,-2"), ("\\{2,1\\}", "\\{1,2\\}"), ("1,2", "\\{1,2\\}"),
        ("\\{1,2,2\\}", "\\{1,2\\}"), ("{1,2}", "\\{1,2\\}"), ("\\lbrace 1,2 \\rbrace", "\\{2,1\\}"), ("\\left\\{1,2\\right\\}", "\\{1,2\\}"),
        ("\\{5\\}", "5"), ("1 \\pm \\sqrt{19}", "1+\\sqrt{19}, 1-\\sqrt{19}"), ("x = 1 \\pm \\sqrt{19}", "1 \\pm \\sqrt{19}"),
        ("±2", "-2, 2"), ("\\{-2, 1+\\sqrt5, 1-\\sqrt5\\}", "\\{1\\pm\\sqrt{5},-2\\}"), ("\\sqrt{19} \\pm (-1)", "\\sqrt{19} \\mp 1"),
        ("(3, 4]", "(3,4]"), ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})"), ("]3,4]", "(3,4]"),
        ("x<4", "(-\\infty,4)"), ("(-\\infty,4)", "x<4"), ("4 > x", "x<4"), ("x \\le 4", "(-\\infty,4]"), ("x≤4", "x \\leq 4"),
        ("x \\in (-\\infty, 4)", "x<4"), ("-2 \\le x \\le 7", "x \\in [-2,7]"), ("[-2,7]", "x \\in [-2,7]"), ("7 \\ge x \\ge -2", "[-2,7]"),
        ("x<2 \\text{ or } x>3", "(-\\infty, 2) \\cup (3, \\infty)"), ("(3,\\infty) \\cup (-\\infty,2)", "(-\\infty, 2) \\cup (3, \\infty)"),
        ("(3,∞)∪(-∞,2)", "(-\\infty, 2) \\cup (3, \\infty)"), ("x>2 \\text{ and } x<5", "(2,5)"), ("x \\ne 3", "(-\\infty,3)\\cup(3,\\infty)"),
        ("\\mathbb{R} \\setminus \\{3\\}", "(-\\infty,3)\\cup(3,\\infty)"), ("(-\\infty,\\infty)", "\\mathbb{R}"), ("ℝ", "\\mathbb{R}"),
        ("\\{x \\mid x<4\\}", "(-\\infty,4)"), ("\\{x : x<4\\}", "x<4"), ("\\{x \\in \\mathbb{R} : x<4\\}", "x<4"), ("(0,2]\\cup[2,3)", "(0,3)"),
        ("[0,1) \\cup \\{1\\}", "[0,1]"), ("x>a", "(a,\\infty)"), ("-x > -4", "x<4"), ("2x+3y \\le 6", "6 \\ge 3y+2x"),
        ("\\emptyset", "\\varnothing"), ("\\{\\}", "\\emptyset"), ("∅", "\\{\\}"), ("\\{ \\}", "\\varnothing"),
        ("(1,2,3)", "(1, 2, 3)"), ("\\langle 1,2,3\\rangle", "(1,2,3)"), ("1,2,3", "(1,2,3)"), ("(\\frac12, -3)", "\\left(0.5,-3\\right)"),
        ("(1;2)", "(1,2)"), ("(0,100)", "(0,10^2)"), ("(1,2),(3,4)", "(3,4),(1,2)"), ("(x,y)=(1,2)", "(1,2)"), ("A = (1,2)", "(1,2)"),
        ("\\begin{bmatrix} 0.5 \\\\ 2 \\end{bmatrix}", "\\begin{pmatrix} 1/2 \\\\ 2 \\end{pmatrix}"),
        ("\\begin{pmatrix}1&0\\\\0&1\\\\\\end{pmatrix}", "\\begin{bmatrix} 1 & 0 \\\\ 0 & 1 \\end{bmatrix}"),
        ("\\frac12\\begin{pmatrix} 2 \\\\ 4 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
        ("-\\begin{pmatrix} 2 \\\\ 4 \\end{pmatrix}", "\\begin{pmatrix} -2 \\\\ -4 \\end{pmatrix}"), ("(1,2)", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
        ("\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}", "-2"), ("4:6", "2:3"), ("2:3", "\\frac{2}{3}"), ("2 : 4 : 6", "1:2:3"),
        ("3:30", "3:30"), ("3:30 \\text{ p.m.}", "3:30\\text{ PM}"), ("1, 2, 3, \\dots", "1,2,3,\\ldots"), ("2+4+...+10", "2+4+\\cdots+10"),
    ],
    "units and words": [
        ("2 \\text{ apples}", "2"), ("2", "2 \\text{ apples}"), ("2 apples", "2 \\text{ apple}"), ("6 \\text{ thousand}", "6000"),
        ("2 \\text{ million}", "2,000,000"), ("2{,}000{,}000", "2 \\text{ million}"), ("\\$2 \\text{ million}", "\\$2,000,000"),
        ("20 \\text{ cm}^2", "20"), ("20\\text{ cm}^2", "20 \\mbox{ cm}^{2}"), ("20 cm^2", "20 \\text{ cm}^2"), ("20 cm²", "20\\,\\mathrm{cm}^2"),
        ("864 \\text{ square inches}", "864 \\mbox{ inches}^2"), ("864 \\text{ in}^2", "864 \\mbox{ inches}^2"), ("864", "864 \\mbox{ inches}^2"),
        ("864 \\text{ sq. in.}", "864 \\mbox{ inches}^2"), ("1 \\text{ m}", "100 \\text{ cm}"), ("30 \\text{ minutes}", "0.5 \\text{ hours}"),
        ("60 \\text{ mph}", "60 \\text{ miles per hour}"), ("60 \\text{ miles}/\\text{hour}", "60 \\text{ mph}"), ("5\\text{ m/s}", "5 \\text{ meters per second}"),
        ("36", "\\$36"), ("\\$36", "36"), ("$36$", "\\$36"), ("36 \\text{ dollars}", "\\$36"), ("\\$18.9", "\\$18.90"), ("-\\$5", "\\$-5"),
        ("\\$0.054", "5.4 \\text{ cents}"), ("5.4", "5.4 \\text{ cents}"), ("£12", "12"), ("12", "£12"), ("32348", "\\$32,\\!348"), ("\\text{\\$}36", "36"),
        ("50", "50\\%"), ("50\\%", "50"), ("0.45", "45\\%"), ("45 \\text{ percent}", "45\\%"), ("45%", "45\\%"), ("45\\%", "0.45"), ("\\frac{9}{20}", "45\\%"),
        ("90", "90^\\circ"), ("90°", "90^\\circ"), ("90 \\text{ degrees}", "90^{\\circ}"), ("\\frac{\\pi}{2}", "90^\\circ"), ("90^\\circ", "90"), ("90 degrees", "90"),
        ("\\frac{\\pi}{2} \\text{ radians}", "\\frac{\\pi}{2}"), ("98^\\circ\\text{F}", "98^\\circ F"), ("98^\\circ \\text{ C}", "98 \\text{ degrees Celsius}"),
        ("4 \\text{ cats and } 6 \\text{ dogs}", "4 cats and 6 dogs"), ("6 \\text{ dogs and } 4 \\text{ cats}", "4 \\text{ cats and } 6 \\text{ dogs}"),
        ("4, 6", "4 \\text{ cats and } 6 \\text{ dogs}"), ("5 \\text{ feet } 6 \\text{ inches}", "66 \\text{ inches}"), ("12 \\text{ units}", "12"),
        ("12 \\text{ square units}", "12"), ("\\text{about } 5", "5"),
        ("Evelyn", "\\text{Evelyn}"), ("\\text{evelyn}", "\\text{Evelyn}"), ("\\textbf{Evelyn}", "\\text{Evelyn}"), ("\\mathrm{east}", "\\text{east}"),
        ("East", "\\text{east}"), ("Tom", "\\text{Tom}"), ("\\text{the ellipse}", "\\text{ellipse}"), ("\\text{Nora}.", "\\text{Nora}"), ("True", "true"),
        ("\\text{true}", "true"), ("\\text{Monday, Friday}", "Friday and Monday"), ("\\text{July 4}", "July 4"), ("\\text{no solution}", "No solution."),
    ],
    "choices": [
        ("C", "\\text{(C)}"), ("(C)", "\\text{(C)}"), ("\\text{C}", "\\text{(C)}"), ("\\textbf{(C)}", "\\text{(C)}"), ("C)", "(C)"), ("C.", "C"),
        ("\\mathrm{(C)}", "C"), ("\\text{C}", "C"), ("c", "\\text{(C)}"), ("(C) 12", "\\text{(C)}"), ("\\textbf{(C)}\\ 12", "(C)"), ("C: 12", "C"), ("C. 12", "C"),
        ("a)", "a"), ("A", "A."), ("A", "a)"),
    ],
    "bases": [
        ("31_{5}", "31_5"), ("31_{\\text{five}}", "31_5"), ("(31)_5", "31_5"), ("31₅", "31_5"), ("031_5", "31_5"), ("2\\,516_8", "2516_8"), ("A3F_{16}", "a3f_{16}"),
        ("1101_{two}", "1101_2"), ("31_{(5)}", "31_5"), ("n = 31_5", "31_5"),
    ],
    "looks": [
        ("**58**", "58"), ("\\boldsymbol{\\frac{2}{7}}", "\\frac{2}{7}"), ("\\mathbf{58}", "58"), ("\\textbf{58}", "58"), ("\\text{58}", "58"), ("\\bf 58", "58"),
        ("\\displaystyle\\frac{2}{7}", "\\frac27"), ("`58`", "58"), ("$58$", "58"), ("$$58$$", "58"), ("\\(58\\)", "58"), ("\\[58\\]", "58"), ("58\\\\", "58"),
        ("\\frac{5}{9}.", "\\frac{5}{9}"), ("2\\sqrt{7}.", "2\\sqrt{7}"), ("12,", "12"), ("12;", "12"), ("12 \\, .", "12"), ("12.$", "12"), ("~12~", "12"), ("\\ 12\\ ", "12"),
        ("\\quad 12", "12"), ("\\left(3,4\\right).", "(3,4)"), ("½", "\\frac12"), ("¾", "0.75"), ("\\color{red}{58}", "58"), ("\\textcolor{red}{58}", "58"), ("\\boxed{58}", "58"),
        ("\\fbox{58}", "58"), ("−3", "-3"), ("–3", "-3"), ("２５", "25"), ("٢٥", "25"), ("3×4", "12"), ("12÷4", "3"), ("3·4", "12"), ("1⁄2", "\\frac12"), ("x′", "x'"), ("{58}", "58"),
        ("\\mathrm{58}", "58"), ("\\text{ 58 }", "58"), ("58\u200b", "58"), ("58\u00a0", "58"), ("\\large 58", "58"), ("\\\\frac{1}{2}", "\\frac12"), ("(58)", "58"), ("\\underline{58}", "58"),
        ("\\hspace{2pt}58", "58"), ("\\bm{x}+1", "x+1"), ("\\phantom{0}58", "58"), ("\\frac{5}{9}\\,", "\\frac59"),
    ],
}  # fmt: skip

DIFFERENT = {
    "numbers": [
        ("8", "7"), ("-7", "7"), ("70", "7"), ("7.5", "7"), ("0.3", "\\frac{1}{3}"), ("0.33", "\\frac13"), ("0.33333", "\\frac13"), ("3.14", "\\pi"), ("3.1416", "\\pi"),
        (".0000481", ".0000482"), ("0.0000003", "0.0000004"), ("\\frac{1}{1998!}", "\\frac{1}{1997!}"), ("10^{-40}", "0"), ("1.0000000000001", "1"), ("0.333334", "\\frac13"),
        ("10^{60}", "10^{60}+1"), ("10^{60}+\\sqrt2", "10^{60}+\\sqrt3"), ("e^{-200}", "0"), ("2^{2008}", "2^{2009}"), ("2^{2008}+1", "2^{2008}"), ("-2./5", "-2./7"), ("0", "0.\\overline{57}"),
        ("0.\\overline{4}", "0.\\overline{7}"), ("0.57", "0.\\overline{57}"), ("0.5\\overline{7}", "0.\\overline{57}"), ("3\\frac12", "\\frac32"), ("1\\frac{4}{5}", "\\frac45"),
        ("\\sum_{k=0}^{6}\\bigl(k\\bigr)", "\\sum_{k=0}^{8}\\bigl(k\\bigr)"), ("12.5", "12,500"), ("12,50", "1250"), ("1 2", "12"), ("2 \\times 10^{-5}", "2 \\times 10^{-4}"), ("6!", "5!"),
        ("1,00", "100"),
    ],
    "formulas": [
        ("2 + \\frac{3}{\\mathrm{e}}", "2 - \\frac{3}{\\mathrm{e}}"), ("5\\sqrt(3)", "5\\sqrt(7)"), ("5\\sqrt(3)", "5"), ("x^2 + 1", "(x+1)^2"), ("x", "|x|"), ("\\sqrt{x^2}", "x"),
        ("m_{p} v^{2}\\left(\\gamma^{2}-4\\right) \\sin ^{2} \\theta", "m_{p} v^{2}\\left(\\gamma^{2}-3\\right) \\sin ^{2} \\theta"), ("X", "x"), ("x_2", "x_1"), ("x'", "x"), ("q - p", "p - q"),
        ("g(f(x))", "f(g(x))"), ("\\bar{x}", "x"), ("\\sin x", "\\cos x"), ("\\sin^2 x", "\\sin x^2"), ("2i", "-2i"), ("1 - 12i", "1 + 12i"), ("x^{2}y", "x^{2y}"), ("\\infty", "-\\infty"),
        ("\\ln x", "\\log x"), ("\\frac{x}{2y}", "\\frac{x}{2}y"), ("n!", "n"), ("\\frac{\\pi}{3}", "\\frac{\\pi}{6}"), ("\\sqrt[3]{5}", "\\sqrt{5}"), ("3\\sqrt{5}", "\\sqrt[3]{5}"),
    ],
    "dots": [("2+4+\\cdots+10", "2+4+\\cdots+50"), ("2:4:6:\\ldots", "2:3:9:\\ldots"), ("1,2,3,\\ldots", "1,2,4,\\ldots"), ("1\\cdot2\\cdots 9", "1 \\cdot 2\\cdots 10")],
    "equations": [
        ("y=2x-3", "y=2x+3"), ("x=5", "y=5"), ("2x=10", "10"), ("x^2=9", "9"), ("1=2=5", "5"), ("2+2=5", "5"), ("x = x", "x=5"), ("x=5, y=6", "5"), ("y=5, x=6", "x=5, y=6"),
        ("x^2+y^2=24", "x^2+y^2=25"), ("x=2x+3", "y=2x+3"), ("x=x", "0"), ("y(y-2x-3)=0", "y=2x+3"), ("3 \\pmod 8", "3 \\pmod 7"),
    ],
    "sets, lists, intervals": [
        ("2, 1, 3", "1,2"), ("1", "1,2"), ("1,2", "1"), ("1, 1, 2", "1, 2"), ("(2,1)", "(1,2)"), ("(3, 4)", "(3,4]"), ("[3, 4)", "(3,4]"), ("(1,2)", "\\{1,2\\}"), ("[1,2]", "(1,2)"),
        ("x \\le 4", "(-\\infty,4)"), ("x>4", "(-\\infty,4)"), ("x<4", "y<4"), ("x<5", "x<4"), ("(3,4)", "34"), ("\\{1,3\\}", "\\{1,2\\}"), ("\\emptyset", "0"), ("0", "\\emptyset"),
        ("(2,12)", "(2,12) \\cup (12,102)"), ("(2,102)", "(2,12) \\cup (12,102)"), ("(-\\infty, 2] \\cup (3, \\infty)", "(-\\infty, 2) \\cup (3, \\infty)"), ("1+\\sqrt{19}", "1 \\pm \\sqrt{19}"),
        ("\\begin{pmatrix} 1 & 2 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"), ("\\begin{pmatrix} 1 \\\\ 3 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"), ("2:4", "2:3"), ("6:60", "3:30"),
        ("(1,2,3)", "(1,2)"), ("(1,2,2)", "(1,2)"), ("\\{1,\\{2\\}\\}", "\\{1,3\\}"), ("3 \\text{ or } 7", "7"), ("(6,31)", "(6,31,-1)"), ("-x > 4", "x<4"),
    ],
    "units and words": [
        ("4 \\text{ cats and } 6 \\text{ dogs}", "4 \\text{ cats and } 9 \\text{ dogs}"), ("4", "4 \\text{ cats and } 6 \\text{ dogs}"), ("6,4", "4 \\text{ cats and } 6 \\text{ dogs}"),
        ("6 \\text{ cats and } 4 \\text{ dogs}", "4 \\text{ cats and } 6 \\text{ dogs}"), ("2 \\text{ million}", "2 \\text{ billion}"), ("2", "2 \\text{ million}"), ("6", "6 \\text{ thousand}"),
        ("20 \\text{ cm}^2", "20 \\text{ m}^2"), ("20 \\text{ cm}", "20 \\text{ cm}^2"), ("20 \\text{ cm}^3", "20 \\text{ cm}^2"), ("20 \\text{ cats}", "20 \\text{ dogs}"), ("£12", "\\$12"), ("\\$5.4", "5.4 \\text{ cents}"),
        ("5 \\text{ kg}", "5 \\text{ g}"), ("30 \\text{ minutes}", "30 \\text{ hours}"), ("0.45", "45"), ("0.45\\%", "45\\%"), ("4.5", "45\\%"), ("\\frac{\\pi}{3}", "90^\\circ"), ("90", "\\frac{\\pi}{2}"), ("98^\\circ C", "98^\\circ F"),
        ("Eve", "\\text{Evelyn}"), ("west", "\\text{east}"), ("false", "true"), ("silent", "\\text{listen}"), ("eurt", "true"), ("\\text{July 5}", "\\text{July 4}"), ("4", "\\text{July 4}"), ("Nora and Eve", "\\text{Nora}"),
        ("5 \\text{ m/s}", "5 \\text{ m}"), ("\\text{hyperbola}", "\\text{ellipse}"), ("12", "\\text{ellipse}"), ("3:30 \\text{ a.m.}", "3:30 \\text{ p.m.}"),
    ],
    "choices": [("D", "\\text{(C)}"), ("(D)", "(C)"), ("(C)(D)", "(C)"), ("(C) \\text{ or } (D)", "(C)"), ("(D) 12", "(C)"), ("AC", "A"), ("12", "(C)")],
    "bases": [("31_7", "31_5"), ("31_{12}", "31_5"), ("16", "31_5"), ("31", "31_5"), ("13_5", "31_5"), ("31_5", "31"), ("31_5", "16"), ("31_{55}", "31_5"), ("315", "31_5"), ("31^5", "31_5")],
    "no answers": [("", "7"), ("(", "7"), ("\\frac{", "7"), ("7 maybe 8", "7"), ("7 7", "7"), ("7, ,", "8"), ("\\foo{7}", "7"), ("?", "7"), ("7=", "7"), ("= 8", "7"), ("7^", "7"), ("\\sqrt{}", "7"), ("\\int_0^1 x dx", "7"),
                   ("7/0", "7"), ("0/0", "7"), ("7 + \\text{cats} - 3", "7"), ("7)", "8"), ("{7", "8"), ("\\infty - \\infty", "0"), ("1,2,3,\\ldots", "1,2,3"), ("...", "7"), ("7...", "7")],
}  # fmt: skip


@pytest.mark.parametrize("kind", EQUAL)
def test_equal_answers_are_right(kind: str) -> None:
    wrong = [(answer, gold, grade(f"\\boxed{{{answer}}}", gold)) for answer, gold in EQUAL[kind]]
    assert [entry for entry in wrong if entry[2].score != 1.0] == []


@pytest.mark.parametrize("kind", DIFFERENT)
def test_different_answers_are_wrong(kind: str) -> None:
    right = [(answer, gold, grade(f"\\boxed{{{answer}}}", gold)) for answer, gold in DIFFERENT[kind]]
    assert [entry for entry in right if entry[2].score != 0.0] == []
