"""What the page says, in the languages that it speaks."""

from collections.abc import Mapping
from types import MappingProxyType

ENGLISH, CHINESE = "en", "zh"
LANGUAGES = (ENGLISH, CHINESE)

_CHINESE: Mapping[str, str] = MappingProxyType(
    {
        "Now": "实时",
        "Endpoints": "上游节点",
        "Store": "存储",
        "All is well.": "一切正常。",
        "Needs attention": "需要处理",
        "Served": "已提供",
        "Fetched": "已拉取",
        "Saved": "已节省",
        "Hits": "命中率",
        "of {count} lookups": "共 {count} 次查询",
        "since the start, {duration} ago": "自 {duration} 前启动以来",
        "in {count} requests": "共 {count} 次请求",
        "from upstream": "来自上游",
        "The line": "线路",
        "{rate}/s from upstream now": "当前从上游 {rate}/s",
        "the last two minutes": "最近两分钟",
        "Downloads": "下载",
        "Nothing is being downloaded.": "当前没有下载任务。",
        "{count} wait for a slot": "{count} 个在排队",
        "Repository": "仓库",
        "Digest": "摘要",
        "Progress": "进度",
        "Rate": "速率",
        "Left": "剩余时间",
        "Readers": "读取者",
        "State": "状态",
        "Upstream": "上游",
        "Endpoint": "节点",
        "Received": "已接收",
        "Pulls left": "剩余拉取次数",
        "up": "正常",
        "down": "不可用",
        "limited": "被限速",
        "again in {duration}": "{duration} 后重试",
        "Used": "已使用",
        "Limit": "上限",
        "Free on the disk": "磁盘剩余",
        "kept free": "保留空间",
        "Blobs": "数据块",
        "Where": "位置",
        "Connections": "连接数",
        "This page is no longer up to date: the mirror does not answer. It tries again by itself.":
            "页面已不是最新：镜像服务没有响应，正在自动重试。",
        "Skip to the content": "跳到正文",
        "unknown": "未知",
        "Images": "镜像",
        "Image": "镜像详情",
        "Files": "文件",
        "All repositories": "所有仓库",
        "personal": "个人",
        "Tags": "标签",
        "All": "全部",
        "Only here": "独占",
        "only here": "独占",
        "Shared": "共享",
        "shared": "共享",
        "Last pull": "最近拉取",
        "More": "更多",
        "Search": "搜索",
        "Nothing of that is here.": "这里没有相关内容。",
        "Confirmed": "确认于",
        "so since": "自此时起不变",
        "in place of the registry": "代替注册表应答",
        "A host downloads": "主机需下载",
        "Platforms": "平台",
        "Platform": "平台",
        "Kind": "类型",
        "here": "已缓存",
        "not here": "未缓存",
        "Layers": "层",
        "Layer": "层",
        "Layers by their sizes": "各层大小",
        "Size": "大小",
        "Shared with": "共享者",
        "Made by": "来源命令",
        "All steps of its history": "完整构建历史",
        "layer {number}": "第 {number} 层",
        "Signatures and others that refer to it": "签名及其他引用",
        "Not read": "未能读取",
        "Name": "名称",
        "removed by layer {number}": "被第 {number} 层删除",
        "was in layer {number} before": "此前在第 {number} 层",
    }
)  # fmt: skip


def choose(wanted: str | None, accepted: str | None) -> str:
    """The language that a browser is answered in: as asked for, else the first it accepts."""
    if wanted in LANGUAGES:
        return wanted
    for part in (accepted or "").split(","):
        language = part.partition(";")[0].strip().partition("-")[0].lower()
        if language in LANGUAGES:
            return language
    return ENGLISH


def say(language: str, phrase: str, **values: object) -> str:
    """A phrase in a language, with values put in."""
    text = _CHINESE.get(phrase, phrase) if language == CHINESE else phrase
    return text.format(**values) if values else text
